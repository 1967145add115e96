"""Heads and bodies of classifiers as people have them: computed as plain transformers does, or refused."""

import pytest
import torch
from padded import padded_rewards
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rao_kedro.errors import ModelError
from rao_kedro.models.loading import load_reward_model, use_packed_attention
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import PaddedRewards, RewardModel, reward_module

GROUPS = [
    TokenizedGroup("a", [1, 10, 11, 12], [[20, 21, 2], [30, 2], [40, 41, 42, 43, 2]]),
    TokenizedGroup("b", [1, 50, 51, 52, 53, 54], [[60, 2], [61, 62, 63, 2]]),
]
SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 1,
}
BODIES = {
    "llama": ({}, RewardModel),
    "gemma3_text": ({"sliding_window": 5}, RewardModel),
    "gpt2": ({}, RewardModel),
    "gpt_neox": ({}, RewardModel),
    "opt": ({"word_embed_proj_dim": 32, "ffn_dim": 48}, RewardModel),
    "gptj": ({"rotary_dim": 8}, PaddedRewards),
    "mpt": ({"d_model": 32, "n_heads": 4, "n_layers": 2}, PaddedRewards),
    "bloom": ({"n_head": 4, "n_layer": 2}, PaddedRewards),
    "modernbert-decoder": ({"cls_token_id": 1, "sep_token_id": 2}, PaddedRewards),
    "roberta": ({"max_position_embeddings": 64}, PaddedRewards),
}
HEADS = {
    "bias": (lambda: nn.Linear(32, 1, bias=True), RewardModel),
    "two layers": (lambda: nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)), PaddedRewards),
}


def classifier(family, **architecture):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **SIZES | architecture)).eval()


def assert_scores_are_plain(model, kind):
    with torch.no_grad():
        expected = [padded_rewards(model, group) for group in GROUPS]
        module = reward_module(use_packed_attention(model))
        assert isinstance(module, kind)
        found = module(pack_groups(GROUPS))
    for row, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", BODIES)
def test_every_body_scores_as_its_rows_alone(family):
    architecture, kind = BODIES[family]
    assert_scores_are_plain(classifier(family, **architecture), kind)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_of_another_shape_counts_as_a_whole(head):
    make, kind = HEADS[head]
    model = classifier("llama")
    model.score = make()
    assert_scores_are_plain(model, kind)


def test_rows_of_a_model_without_a_padding_token_are_computed_one_by_one():
    model = classifier("llama", pad_token_id=None)
    model.score = HEADS["two layers"][0]()
    assert_scores_are_plain(model, PaddedRewards)


@pytest.mark.parametrize("name", ["score.bias", "gating.0.weight", "v_head.summary.weight"])
def test_a_checkpoint_with_a_head_that_transformers_would_leave_out_is_refused(name, tmp_path):
    classifier("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"lm_head.weight": torch.zeros(80, 32)}, tmp_path / "model.safetensors", {"format": "pt"})
    load_reward_model(tmp_path)  # what is left of a causal LM is no part of the score
    save_file(weights | {name: torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"has weights that LlamaForSequenceClassification does not have: {name}"):
        load_reward_model(tmp_path)
