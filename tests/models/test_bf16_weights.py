"""Weights in bf16: what is loaded so is what training computes with, and real models pass the check of packing."""

import pytest
import torch

from rao_kedro.models.bf16_weights import round_weights
from rao_kedro.models.loading import load_causal_lm, load_reward_model
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import reward_module

BATCH = pack_groups([TokenizedGroup("a", [1, 50, 60], [[70, 71, 2], [80, 2]])])


def test_a_policy_loaded_in_bf16_computes_what_a_rounded_one_computes(tiny_checkpoint):
    loaded = LogProbModel(load_causal_lm(tiny_checkpoint, torch.bfloat16))
    round_weights(rounded := LogProbModel(load_causal_lm(tiny_checkpoint)))
    assert torch.equal(loaded(BATCH).responses, rounded(BATCH).responses)
    assert loaded(BATCH).responses.dtype == torch.float32


def test_a_reward_model_in_bf16_keeps_its_head_in_fp32(tiny_reward_model):
    loaded = reward_module(load_reward_model(tiny_reward_model, torch.bfloat16))
    exact = reward_module(load_reward_model(tiny_reward_model))
    assert torch.equal(loaded.model.score.weight, exact.model.score.weight)
    assert loaded.model.dtype == torch.bfloat16 and loaded(BATCH).dtype == torch.float32
    torch.testing.assert_close(loaded(BATCH), exact(BATCH), rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_a_deep_model_in_bf16_is_not_taken_for_one_that_cannot_be_packed(smollm2):
    LogProbModel(load_causal_lm(smollm2, torch.bfloat16))
