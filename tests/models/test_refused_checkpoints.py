"""What the loaders refuse, whoever names the model, and what is published of a head."""

import json

import pytest
import torch
from changed_checkpoints import an_adapter, copy_of, edit_weights, in_fp8, with_own_head
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.checks import check_tokens
from rao_kedro.models.loading import load_causal_lm, load_reward_model, new_reward_model, save_checkpoint


def head_of(directory):
    """The head that an engine computes with which believes the configuration and reads the weights by name."""
    weights = load_file(directory / "model.safetensors")
    tied = json.loads((directory / "config.json").read_text())["tie_word_embeddings"]
    return weights["model.embed_tokens.weight" if tied else "lm_head.weight"]


@pytest.mark.parametrize("gathered", [False, True])
def test_a_head_of_its_own_is_published_as_not_tied(tmp_path, tiny_checkpoint, gathered):
    source = with_own_head(tiny_checkpoint, tmp_path / "own_head")
    model = load_causal_lm(source)
    model.tie_weights()  # as after sharding
    with torch.no_grad():
        model.lm_head.weight += 1
    weights = {f"model.{name}": value for name, value in model.state_dict().items()} if gathered else None
    save_checkpoint(model, load_tokenizer(source), tmp_path / "policy", weights)
    expected = load_file(source / "model.safetensors")["lm_head.weight"] + 1
    assert torch.equal(head_of(tmp_path / "policy"), expected)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "policy").lm_head.weight, expected)


@pytest.mark.parametrize("gathered", [False, True])
def test_a_tied_head_is_published_as_tied_and_once(tmp_path, tiny_checkpoint, gathered):
    model = load_causal_lm(tiny_checkpoint)
    weights = {f"model.{name}": value.clone() for name, value in model.state_dict().items()} if gathered else None
    save_checkpoint(model, load_tokenizer(tiny_checkpoint), tmp_path / "policy", weights)
    assert "lm_head.weight" not in load_file(tmp_path / "policy/model.safetensors")
    assert torch.equal(head_of(tmp_path / "policy"), head_of(tiny_checkpoint))


def quantised(model, directory):
    copy_of(model, directory, quantization_config={"quant_method": "awq", "bits": 4})


def fp8(model, directory):
    in_fp8(model, directory)


def with_adapter(model, directory):
    an_adapter(model, directory)
    copy_of(model, directory / "copy")
    for path in (directory / "copy").iterdir():
        path.rename(directory / path.name)


def adapter(model, directory):
    an_adapter(model, directory)


def padding(model, directory):
    copy_of(model, directory, pad_token_id=999)


def without_a_weight(model, directory):
    copy_of(model, directory)
    edit_weights(directory, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))


def other_shape(model, directory):
    copy_of(model, directory, intermediate_size=60)


def halfway_merged(model, directory):
    copy_of(model, directory)
    edit_weights(directory, lambda w: w.update({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}))


@pytest.mark.parametrize("load", [load_causal_lm, load_reward_model, new_reward_model])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (quantised, r"is quantised \(awq"),
        (fp8, r"is quantised \(fp8.*as the base model, FP8 weights are dequantised at import"),
        (with_adapter, "contains a model and an adapter"),
        (adapter, "is an adapter of .*, not a model: merge it"),
        (padding, "padding token .* is 999"),
        (without_a_weight, r"1 are missing, model\.layers\.1\.mlp\.up_proj\.weight, and would be random"),
        (other_shape, r"has the shape \[32, 64\]"),
        (halfway_merged, r"have no place in the model, model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
    ],
)
def test_every_loader_refuses_what_cannot_be_computed_with(
    tmp_path, tiny_checkpoint, tiny_reward_model, load, spoil, message
):
    model = tiny_reward_model if load is load_reward_model and spoil not in (adapter, with_adapter) else tiny_checkpoint
    spoil(model, tmp_path / "spoilt")
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "spoilt")


def test_tokens_of_another_model_than_the_policy_must_have_embeddings(tmp_path, tiny_reward_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reward_model)
    check_tokens(tokenizer, tiny_reward_model)
    tokenizer.add_tokens(["foxes", "dogs"])
    with pytest.raises(
        ModelError, match=r"has 2 tokens .*'foxes' \(\d+\), 'dogs' \(\d+\): the model has \d+ embeddings"
    ):
        check_tokens(tokenizer, tiny_reward_model)
