"""Log-probs and gradients on the GPU against the CPU, in fp32 and bf16, by the kernel and by the plain path."""

import random
from contextlib import nullcontext

import pytest
import torch
from padded import padded_logps
from transformers import AutoConfig, AutoModelForCausalLM

from rao_kedro.models import attention
from rao_kedro.models.loading import load_causal_lm, use_packed_attention
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups

pytestmark = pytest.mark.gpu

EPSILON = torch.finfo(torch.bfloat16).eps  # 2^-7, the relative distance of neighbouring numbers
LOGPS_BF16 = EPSILON  # of a response's log-prob; roundings of its tokens are independent, and much of them cancels
GRADIENTS_BF16 = 16 * EPSILON  # of a gradient's norm: the operands of some twenty products in a row are rounded


def random_groups(vocabulary=250):
    """Two groups with responses of 40 to 130 tokens: about 700 nats where the model knows nothing."""
    rng = random.Random(0)

    def tokens(n):
        return [rng.randrange(10, vocabulary) for _ in range(n)]

    lengths = [(60, (130, 40, 90)), (25, (120, 64))]
    return [TokenizedGroup(f"g{i}", tokens(n), [*map(tokens, each)]) for i, (n, each) in enumerate(lengths)]


def compute(model, groups, device, dtype=None, oracle=False):
    """Return log-probs of the responses and gradients by name, both on the CPU in fp32."""
    model = model.to(device)
    model.zero_grad()
    with torch.autocast(device.type, dtype) if dtype else nullcontext():
        logps = (
            padded_logps(model, groups) if oracle else LogProbModel(model)(pack_groups(groups).to(device), "attached")
        )
    (logps.responses[:, 0] - logps.responses[:, 1]).mean().backward()
    gradients = {name: p.grad.float().cpu() for name, p in model.named_parameters()}
    return logps.responses.detach().float().cpu(), gradients


def relative_errors(found, expected):
    return [float((found[name] - of).norm() / of.norm()) for name, of in expected.items()]


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "wide_checkpoint"])
def test_in_fp32_a_gpu_computes_what_a_cpu_computes(checkpoint, device, request):
    model, groups = load_causal_lm(request.getfixturevalue(checkpoint)), random_groups()
    expected, expected_gradients = compute(model, groups, torch.device("cpu"), oracle=True)
    found, gradients = compute(model, groups, device)
    assert expected.min() < -700
    assert (found - expected).abs().max() < 1e-3  # nats
    assert max(relative_errors(gradients, expected_gradients)) < 1e-3


@pytest.mark.parametrize("checkpoint", ["tiny_checkpoint", "wide_checkpoint"])
def test_in_bf16_packs_on_a_gpu_are_as_close_to_a_cpu_in_fp32_as_padded_rows_are(checkpoint, device, request):
    model, groups = load_causal_lm(request.getfixturevalue(checkpoint)), random_groups()
    expected, expected_gradients = compute(model, groups, torch.device("cpu"))
    there, errors = expected != 0, []
    for oracle in (False, True):
        found, gradients = compute(model, groups, device, torch.bfloat16, oracle)
        assert ((found - expected).abs() / expected.abs())[there].max() < LOGPS_BF16
        errors.append(max(relative_errors(gradients, expected_gradients)))
    packed, padded = errors
    assert packed < 1.5 * padded < 1.5 * GRADIENTS_BF16


def test_the_kernel_computes_what_the_plain_path_computes(device, wide_checkpoint, monkeypatch):
    model, groups, calls = load_causal_lm(wide_checkpoint), random_groups(), []
    kernel = attention.attend_varlen
    monkeypatch.setattr(attention, "attend_varlen", lambda *of: (calls.append(of), kernel(*of))[1])
    found, gradients = compute(model, groups, device, torch.bfloat16)
    assert bool(calls) == (device.type == "cuda")
    monkeypatch.setattr(attention, "_kernel_computes", lambda width: False)
    calls.clear()
    expected, expected_gradients = compute(model, groups, device, torch.bfloat16)
    assert not calls
    there = expected != 0
    assert ((found - expected).abs() / expected.abs())[there].max() < LOGPS_BF16
    assert max(relative_errors(gradients, expected_gradients)) < GRADIENTS_BF16


def test_heads_too_narrow_for_the_kernel_take_the_plain_path(device, tiny_checkpoint, monkeypatch):
    model = load_causal_lm(tiny_checkpoint)
    assert model.config.head_dim == 8
    monkeypatch.setattr(attention, "attend_varlen", lambda *of: pytest.fail("the kernel was called"))
    found, _ = compute(model, random_groups(), device, torch.bfloat16)
    assert found.isfinite().all()


FAMILIES = {
    "mistral": {"sliding_window": 32},
    "gemma2": {"sliding_window": 32, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    "gemma3_text": {"sliding_window": 32},
    "qwen3": {},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_windows_and_soft_caps_are_the_same_on_a_gpu(family, precision, device):
    size = {"vocab_size": 256, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "pad_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **size, **heads, **FAMILIES[family], initializer_range=0.1)
    model = use_packed_attention(AutoModelForCausalLM.from_config(config).eval())
    expected, expected_gradients = compute(model, random_groups(), torch.device("cpu"))
    dtype = torch.bfloat16 if precision == "bf16" else None
    found, gradients = compute(model, random_groups(), device, dtype)
    there = expected != 0
    bounds = (LOGPS_BF16, GRADIENTS_BF16) if dtype else (2e-6, 1e-3)
    assert ((found - expected).abs() / expected.abs())[there].max() < bounds[0]
    assert max(relative_errors(gradients, expected_gradients)) < bounds[1]
