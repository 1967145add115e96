"""Loading: all weights on every process, whatever accelerate file, or a sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, new_reward_model, refuse_other_weights


@pytest.fixture
def second_process(monkeypatch):
    """What transformers sees on the second of two processes under conf/accelerate/fsdp2.yaml."""
    from transformers import modeling_utils
    from transformers.distributed import fsdp

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    monkeypatch.setattr(fsdp, "_is_torch_distributed_initialized", lambda: True)
    monkeypatch.setattr(modeling_utils, "is_local_dist_rank_0", lambda: False)


@pytest.mark.usefixtures("second_process")
def test_only_what_the_engine_wraps_is_loaded_without_its_weights(tiny_checkpoint, tiny_reward_model):
    for load, directory in ((load_causal_lm, tiny_checkpoint), (load_reward_model, tiny_reward_model)):
        assert not any(weight.any() for weight in load(directory, for_engine=True).parameters())
        assert all(weight.any() for weight in load(directory).parameters())
    assert not any(weight.any() for weight in new_reward_model(tiny_checkpoint, for_engine=True).parameters())


def test_the_engines_settings_are_as_before_once_a_model_is_loaded(tiny_checkpoint, monkeypatch):
    import os

    from transformers.integrations import deepspeed

    class Zero3:
        def is_zero3(self):
            return True

    config = Zero3()
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: config)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    load_causal_lm(tiny_checkpoint)  # under ZeRO-3 this would need DeepSpeed
    assert deepspeed.is_deepspeed_zero3_enabled() and os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING")
    load_causal_lm(tiny_checkpoint)
    assert "FSDP_CPU_RAM_EFFICIENT_LOADING" not in os.environ


def in_shards(directory, target):
    """Write a checkpoint in two files, as large ones are."""
    target.mkdir()
    weights = load_file(directory / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, of_file in parts.items():
        save_file({name: weights[name] for name in of_file}, target / file, metadata={"format": "pt"})
    weight_map = {name: file for file, of_file in parts.items() for name in of_file}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for path in directory.glob("*.json"):
        shutil.copy(path, target)
    return target


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_the_checkpoints_are_noticed_in_every_tensor(tmp_path, tiny_checkpoint, sharded, dtype):
    directory = in_shards(tiny_checkpoint, tmp_path / "sharded") if sharded else tiny_checkpoint
    model = load_causal_lm(directory, dtype)
    for name, weight in model.named_parameters():
        right = weight.data
        weight.data = torch.zeros_like(right)
        with pytest.raises(ModelError, match=r"differs from .*, so this process would score with other"):
            refuse_other_weights(model, directory)
            pytest.fail(f"{name} was not noticed")
        weight.data = right
    refuse_other_weights(model, directory)


def encoder(directory, tiny_checkpoint):
    """A classifier whose head is not called `score`, with a backbone that a file may hold without its prefix."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = load_tokenizer(tiny_checkpoint)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **size)
    BertForSequenceClassification(config).save_pretrained(directory)
    return directory


def test_heads_prefixes_and_weights_of_another_task_do_not_hinder_the_comparison(
    tmp_path, tiny_checkpoint, tiny_reward_model
):
    load_reward_model(tiny_reward_model)
    classifier = load_reward_model(encoder(tmp_path / "encoder", tiny_checkpoint))
    assert new_reward_model(tiny_checkpoint).score.weight.any()  # a causal LM's files hold no head
    weights = {name.removeprefix("bert."): weight.clone() for name, weight in classifier.state_dict().items()}
    save_file(weights, tmp_path / "encoder" / "model.safetensors", metadata={"format": "pt"})
    load_reward_model(tmp_path / "encoder")
    classifier.classifier.weight.data.zero_()
    with pytest.raises(ModelError, match=r"classifier.weight of the model"):
        refuse_other_weights(classifier, tmp_path / "encoder")


def test_a_checkpoint_of_which_nothing_can_be_compared_is_refused(tmp_path, tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint)
    weights = {f"renamed.{name}": weight for name, weight in load_file(tiny_checkpoint / "model.safetensors").items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"cannot be compared with its files: .* Save it with `save_pretrained`"):
        refuse_other_weights(model, tmp_path)
