"""Prefix-shared attention against the dense mask and against plain padded rows, in models of several families.

The variable-length kernel of CUDA is emulated.
"""

import pytest
import torch
import varlen_on_cpu
from padded import padded_logps
from transformers import AutoConfig, AutoModelForCausalLM

from rao_kedro.errors import ModelError
from rao_kedro.models import attention
from rao_kedro.models.attention import PACKED, PackLayout
from rao_kedro.models.loading import load_causal_lm, use_packed_attention
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups

GROUPS = [
    TokenizedGroup("a", [1, 10, 11, 12], [[20, 21, 2], [30, 2], [40, 41, 42, 43, 2]]),
    TokenizedGroup("b", [1, 50, 51, 52, 53, 54], [[60, 2], [61, 62, 63, 2]]),
]
SIZES = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 5},
    "granite": {"logits_scaling": 2.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
    "olmo2": {},
}


@pytest.fixture(autouse=True)
def responses_of_several_blocks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 3)


def model_of(family, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES | FAMILIES[family] | more)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


def gradients(model, logps):
    model.zero_grad()
    (logps.responses.square().sum() + 3 * logps.prompts.sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("path", ["by segment", "varlen"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_with_gradients(family, path, monkeypatch):
    varlen_on_cpu.calls.clear()
    if path == "varlen":
        varlen_on_cpu.use_varlen(monkeypatch, torch.float64)
    model = model_of(family)
    model.set_attn_implementation("eager")
    oracle = padded_logps(model, GROUPS)
    expected = gradients(model, oracle)
    model.set_attn_implementation(PACKED)
    packed = LogProbModel(model)(pack_groups(GROUPS), "attached")
    torch.testing.assert_close(packed.responses, oracle.responses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(packed.prompts, oracle.prompts, rtol=1e-6, atol=1e-6)
    found = gradients(model, packed)
    assert found.keys() == expected.keys()
    for name in found:
        assert (found[name] - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-9, name
    assert ((6, 10) in varlen_on_cpu.calls) == (path == "varlen" and family != "gemma2")  # whose scores are soft-capped


LAYOUT = PackLayout(((4, 3, 2, 5), (6, 2), (1, 1, 7, 1, 4)))


def states(dtype=torch.float64, width=16, heads=(4, 2, 2)):
    torch.manual_seed(0)
    n = sum(LAYOUT.lengths)
    return [torch.randn(1, h, n, width, dtype=dtype, requires_grad=True) for h in heads]


def packed(query, key, value, sequences=None, **how):
    return attention.packed_attention(
        torch.nn.Identity(), query, key, value, None, packed_layout=LAYOUT, packed_sequences=sequences, **how
    )[0]


def dense(query, key, value, scaling=None, sliding_window=None, softcap=None):
    """What the scores of all tokens give, `[1, T, heads, width]`."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[3] ** -0.5)
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~LAYOUT.dense_mask(window=sliding_window), -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2)


@pytest.mark.parametrize("path", ["by segment", "varlen"])
@pytest.mark.parametrize("heads", [(4, 2, 2), (4, 4, 4), (3, 1, 1)])
@pytest.mark.parametrize(
    "how", [{}, {"sliding_window": 3}, {"sliding_window": 1}, {"scaling": 0.7}, {"sliding_window": 50}]
)
def test_both_paths_equal_the_dense_mask_with_gradients(how, heads, path, monkeypatch):
    varlen_on_cpu.use_varlen(monkeypatch, torch.float64)
    inputs = states(heads=heads)
    sequences = LAYOUT.sequences(torch.device("cpu")) if path == "varlen" else None
    found, expected = packed(*inputs, sequences, **how), dense(*inputs, **how)
    assert len(varlen_on_cpu.calls) == (path == "varlen")
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(output, inputs, upstream) for output in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("window", [None, 3])
def test_soft_capped_scores_equal_the_dense_mask_with_gradients(window):
    inputs, how = states(), {"softcap": 2.0, "sliding_window": window}
    found, expected = packed(*inputs, **how), dense(*inputs, **how)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(output, inputs, upstream) for output in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("dtype", "width", "how", "called"),
    [
        (torch.bfloat16, 16, {}, True),
        (torch.float16, 256, {"sliding_window": 3}, True),
        (torch.float32, 16, {}, False),
        (torch.float64, 16, {}, False),
        (torch.bfloat16, 8, {}, False),
        (torch.bfloat16, 20, {}, False),
        (torch.bfloat16, 224, {}, False),  # gradients on A100 and H100 only
        (torch.bfloat16, 264, {}, False),
        (torch.bfloat16, 16, {"softcap": 2.0}, False),
        (torch.bfloat16, 16, {"dropout": 0.1}, False),
    ],
)
def test_what_the_kernel_does_not_compute_goes_sequence_by_sequence(dtype, width, how, called, monkeypatch):
    varlen_on_cpu.use_varlen(monkeypatch)
    query, key, value = states(dtype, width)
    output = packed(query, key, value, LAYOUT.sequences(query.device), **how)
    assert len(varlen_on_cpu.calls) == called
    if "dropout" not in how:
        torch.testing.assert_close(output, packed(query, key, value, **how), rtol=0.02, atol=0.02)


def test_under_autocast_the_kernel_gets_half_precision(monkeypatch):
    """Rotary embeddings leave queries and keys in fp32, the projection leaves values in bf16."""
    varlen_on_cpu.use_varlen(monkeypatch)
    query, key, value = states(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = packed(query, key, value.bfloat16(), LAYOUT.sequences(query.device))
    assert output.dtype == torch.bfloat16 and len(varlen_on_cpu.calls) == 1
    torch.testing.assert_close(output.float(), dense(query, key, value), rtol=0.03, atol=0.03)


def test_the_gradients_of_a_prompt_are_added_up_in_full_precision():
    """1 + 256 times 2^-9: in bf16, each addend would be rounded away."""
    index = torch.zeros(257, dtype=torch.long)
    states = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.full((257, 1), 2.0**-9, dtype=torch.bfloat16)
    upstream[0] = 1
    attention._Gather.apply(states, index).backward(upstream)
    assert states.grad.item() == 1.5


def test_a_pack_is_causal_sequences_with_gathered_keys():
    sequences = PackLayout(((2, 1, 2), (1, 1))).sequences(torch.device("cpu"))
    assert sequences.key_index.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5, 5, 6]
    assert sequences.cu_q.tolist() == [0, 2, 3, 5, 6, 7]
    assert sequences.cu_k.tolist() == [0, 2, 5, 9, 10, 12]
    assert sequences[3:] == (2, 4)


def test_the_dense_mask_shows_a_token_its_prompt_and_its_own_response_only():
    layout = PackLayout(((2, 1, 2), (1, 1)))
    rows = ["1000000", "1100000", "1110000", "1101000", "1101100", "0000010", "0000011"]
    assert ["".join(map(str, row)) for row in layout.dense_mask().int().tolist()] == rows


def test_a_loaded_model_generates_as_it_does_with_sdpa(tiny_checkpoint):
    ids = torch.tensor([[5, 1, 50, 60], [1, 50, 60, 70]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    model = load_causal_lm(tiny_checkpoint).eval()
    assert model.config._attn_implementation == PACKED
    written = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    model.set_attn_implementation("sdpa")
    assert written.tolist() == model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False).tolist()


def test_soft_capped_scores_without_a_layout_are_those_of_eager_attention():
    """transformers' SDPA leaves the cap out."""
    model = model_of("gemma2").float()
    ids, mask = torch.tensor([[0, 1, 50, 60, 5, 6], [1, 50, 60, 70, 7, 8]]), torch.ones(2, 6, dtype=torch.long)
    mask[0, 0] = 0
    outputs = {}
    for implementation in ("eager", PACKED):
        model.set_attn_implementation(implementation)
        logits = model(ids, attention_mask=mask).logits[mask.bool()]
        outputs[implementation] = (logits, model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False))
    torch.testing.assert_close(outputs[PACKED][0], outputs["eager"][0], rtol=1e-4, atol=1e-4)
    assert outputs[PACKED][1].tolist() == outputs["eager"][1].tolist()


UNPACKABLE = {
    "mamba": ({}, r"\(linear_attention\)"),
    "rwkv": ({}, "it keeps a state along the sequence"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, r"\(conv\)"),
    "qwen3_next": ({"layer_types": ["linear_attention", "full_attention"]}, r"\(linear_attention\)"),
}


@pytest.mark.parametrize("family", UNPACKABLE)
def test_a_model_that_would_see_other_responses_is_refused(family):
    more, reason = UNPACKABLE[family]
    config = AutoConfig.for_model(family, **SIZES | more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=reason):
        LogProbModel(model)(pack_groups(GROUPS))


OTHERWISE = {
    "gptj": {"rotary_dim": 8},  # a mask of another kind
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},  # ALiBi, by the place in the row
    "modernbert-decoder": {"cls_token_id": 1, "sep_token_id": 2},
    "bert": {},  # sees what comes later
    "bloom": {"n_head": 4, "n_layer": 2},  # fails on a mask of four dimensions
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", OTHERWISE)
def test_a_model_that_computes_a_packed_response_otherwise_than_alone_is_refused(family, dtype):
    torch.manual_seed(0)
    named = {"bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **SIZES | named | OTHERWISE[family])
    model = AutoModelForCausalLM.from_config(config).to(dtype).train()
    how = "its code fails on them" if family == "bloom" else "its result for a response depends on the other responses"
    with pytest.raises(ModelError, match=f"cannot be trained on packed groups: {how}"):
        LogProbModel(use_packed_attention(model))
    assert all(module.training for module in model.modules())


def test_a_model_whose_attention_sdpa_cannot_compute_keeps_its_own():
    """As GPT-OSS with its sinks, which SDPA would leave out without a word where text is generated."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", **SIZES, num_local_experts=2))
    assert use_packed_attention(model).config._attn_implementation == "eager"


def test_sliding_windows_without_the_attention_interface_are_refused():
    model = model_of("mistral")
    assert model.config._attn_implementation != PACKED
    with pytest.raises(ModelError, match="sliding windows"):
        LogProbModel(model)(pack_groups(GROUPS))


def test_attention_sinks_are_refused():
    layout = pack_groups(GROUPS).layout
    states = torch.zeros(1, 2, sum(layout.lengths), 4)
    with pytest.raises(ModelError, match="attention sinks"):
        attention.packed_attention(
            torch.nn.Identity(), states, states, states, None, packed_layout=layout, s_aux=torch.zeros(2)
        )
