"""Packed, chunked log-probs against the plain padded path."""

import pytest
import torch
from padded import padded_logps

from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups

GROUPS = [
    TokenizedGroup("a", [1, 10, 11, 12], [[20, 21, 2], [30, 2], [40, 41, 42, 43, 2]]),
    TokenizedGroup("b", [1, 50, 51], [[60, 2], [61, 62, 63, 2]]),
]


def losses_and_gradients(model, logps):
    model.zero_grad()
    (logps.responses.square().sum() + 3 * logps.prompts.sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_equals_padded_in_float64_with_gradients(tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint, torch.float64)
    packed = LogProbModel(model)(pack_groups(GROUPS), "attached")
    padded = padded_logps(model, GROUPS)
    torch.testing.assert_close(packed.responses, padded.responses, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(packed.prompts, padded.prompts, rtol=1e-10, atol=1e-10)
    ours, oracle = losses_and_gradients(model, packed), losses_and_gradients(model, padded)
    assert ours.keys() == oracle.keys()
    for name in ours:
        # Llama's RMSNorm computes in fp32 even here, so gradients agree to its precision, not to fp64's.
        assert (ours[name] - oracle[name]).norm() <= 1e-5 * oracle[name].norm(), name


def test_packed_equals_padded_in_float32(tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint)
    with torch.no_grad():
        packed, padded = LogProbModel(model)(pack_groups(GROUPS), "detached"), padded_logps(model, GROUPS)
    torch.testing.assert_close(packed.responses, padded.responses, rtol=1e-5, atol=1e-4)


def test_detached_prompt_logps_carry_no_gradient(tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint)
    assert not LogProbModel(model)(pack_groups(GROUPS), "detached").prompts.requires_grad
    assert LogProbModel(model)(pack_groups(GROUPS), "attached").prompts.requires_grad


def test_a_longer_t0_leaves_its_tokens_out_of_the_prompt_logp(tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint, torch.float64)
    for t0_length in (1, 2):
        packed = LogProbModel(model)(pack_groups(GROUPS, t0_length), "detached")
        torch.testing.assert_close(packed.prompts, padded_logps(model, GROUPS, t0_length).prompts.detach())


def test_masked_columns_are_zero():
    batch = pack_groups(GROUPS)
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.lengths.tolist() == [[3, 2, 5], [2, 4, 0]]
    assert batch.position_ids[0, :8].tolist() == [0, 1, 2, 3, 4, 5, 6, 4]


def test_empty_responses_and_bare_prompts_are_refused():
    with pytest.raises(ValueError, match="group x: response 1 is empty"):
        pack_groups([TokenizedGroup("x", [1, 2], [[3], []])])
    with pytest.raises(ValueError, match=r"group x: the prompt has 1 tokens, no more than t_0 \(1\)"):
        pack_groups([TokenizedGroup("x", [1], [[3], [4]])])
