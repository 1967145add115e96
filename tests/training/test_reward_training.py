"""Reward models through the real loop: what they can learn and cannot, what they start from, how they are kept."""

import json
import random
import shutil

import pandas as pd
import pytest
import torch
from groups import log_of, parameters, write_groups
from launching import IN_PROCESS
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rao_kedro.config.specs import RewardTrainingSpec
from rao_kedro.config.training import LoRAParameters
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.loading import load_reward_model, save_checkpoint
from rao_kedro.rewards import PromptGroup, make_reward
from rao_kedro.workers import launch

TINY_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GROUP = PromptGroup("g", [{"role": "user", "content": "the fox"}], ["the dog", "a lazy dog jumps"])


def reward_spec(directory, model_dir, groups_path, **training):
    return RewardTrainingSpec(
        workspace=directory / "reward",
        model_dir=model_dir,
        groups_path=groups_path,
        training=parameters(**({"epochs": 1} | training)),
    )


def shuffled(path):
    """Give every group its ratings in another order."""
    rng, table = random.Random(0), pd.read_parquet(path)
    table["ratings"] = [rng.sample(list(ratings), len(ratings)) for ratings in table["ratings"]]
    best_and_worst = [(int(pd.Series(r).argmax()), int(pd.Series(r).argmin())) for r in table["ratings"]]
    table["chosen"], table["rejected"] = zip(*best_and_worst, strict=True)
    table.to_parquet(path)
    return path


def held_out_accuracy(spec):
    launch(spec, IN_PROCESS)
    return max(row["eval_accuracy"] for row in log_of(spec.workspace)[1][1:])


def test_a_rule_is_learnt_and_shuffled_labels_are_not(tmp_path, tiny_checkpoint):
    """Held out: 100 groups of three pairs each, whose accuracy has a standard deviation of 0.03 at most by chance."""
    how = {"epochs": 9, "batch_size": 8, "max_tokens_per_batch": 200}
    separable = write_groups(tmp_path / "groups.parquet", 300)
    assert held_out_accuracy(reward_spec(tmp_path, tiny_checkpoint, separable, **how)) >= 0.9
    assert 0.4 < held_out_accuracy(reward_spec(tmp_path, tiny_checkpoint, shuffled(separable), **how)) < 0.6


def plain_scores(model_dir):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(model_dir), load_tokenizer(model_dir)
    chats = [[*GROUP.messages, {"role": "assistant", "content": response}] for response in GROUP.responses]
    rows = [tokenizer.apply_chat_template(chat, tokenize=False).removesuffix("\n") for chat in chats]
    batch = tokenizer(rows, add_special_tokens=False, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        return model(**batch).logits[:, 0].tolist()


@pytest.mark.parametrize("lora", [None, LoRAParameters(rank=4)], ids=["full", "lora"])
def test_what_is_saved_is_scored_alike_by_the_project_and_by_plain_transformers(tmp_path, tiny_checkpoint, lora):
    groups = write_groups(tmp_path / "groups.parquet", 12)
    spec = reward_spec(tmp_path, tiny_checkpoint, groups, lora=lora, learning_rate=1e-2)
    launch(spec, IN_PROCESS)
    directory = spec.workspace / "model"
    scores = make_reward("bradley_terry", model_dir=directory, mixed_precision="no").score([GROUP])[0]
    assert scores == pytest.approx(plain_scores(directory), abs=1e-5)


def test_a_reward_model_keeps_the_end_of_turn_tokens_of_the_model_that_it_starts_from(tmp_path, tiny_checkpoint):
    """Else it would read `dog<|im_end|>` in training, and append the tokenizer's EOS when it scores."""
    shutil.copytree(tiny_checkpoint, tmp_path / "start")
    tokens = {"bos_token_id": 1, "eos_token_id": [0, 2], "pad_token_id": 0}
    (tmp_path / "start/generation_config.json").write_text(json.dumps(tokens))
    spec = reward_spec(tmp_path, tmp_path / "start", write_groups(tmp_path / "groups.parquet", 6))
    launch(spec, IN_PROCESS)
    saved = load_chat_format(spec.workspace / "model")
    assert saved.end_of_turn_ids == load_chat_format(tmp_path / "start").end_of_turn_ids == (0, 2)
    assert saved.tokenizer.pad_token_id not in saved.end_of_turn_ids


def test_an_encoder_is_trained_on_padded_rows(tmp_path, tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    torch.manual_seed(0)
    config = BertConfig(**TINY_BERT, vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, hidden_dropout_prob=0.0)
    save_checkpoint(BertForSequenceClassification(config), tokenizer, tmp_path / "bert")
    groups = write_groups(tmp_path / "groups.parquet", 60)
    spec = reward_spec(tmp_path, tmp_path / "bert", groups, epochs=4, max_tokens_per_batch=200)
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    assert steps[-1]["loss"] < 0.8 * steps[0]["loss"]
    scores = make_reward("bradley_terry", model_dir=spec.workspace / "model", mixed_precision="no").score([GROUP])[0]
    assert scores == pytest.approx(plain_scores(spec.workspace / "model"), abs=1e-5)


def test_training_from_a_reward_model_starts_with_its_head(tmp_path, tiny_reward_model):
    groups = write_groups(tmp_path / "groups.parquet", 12)
    spec = reward_spec(tmp_path, tiny_reward_model, groups, learning_rate=1e-9)
    launch(spec, IN_PROCESS)
    before, after = (load_reward_model(m).score.weight for m in (tiny_reward_model, spec.workspace / "model"))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.fixture
def foreign_reward_model(tiny_reward_model, tmp_path):
    """The tiny reward model as another project would have saved it: without a word of where it is read."""
    directory = tmp_path / "foreign"
    shutil.copytree(tiny_reward_model, directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "rao_kedro" not in k}))
    return directory


def test_a_model_that_is_trained_here_says_where_it_is_read_whatever_it_started_from(tmp_path, foreign_reward_model):
    """So does one that plain transformers opened and saved; what is asked for counts more."""
    groups = write_groups(tmp_path / "groups.parquet", 12)
    spec = reward_spec(tmp_path, foreign_reward_model, groups)
    launch(spec, IN_PROCESS)
    trained, again = spec.workspace / "model", tmp_path / "again"
    shutil.copytree(trained, again)
    AutoModelForSequenceClassification.from_pretrained(trained).save_pretrained(again)

    def reward(model_dir, **options):
        return make_reward("bradley_terry", model_dir=model_dir, mixed_precision="no", **options)

    for model_dir in (trained, again):
        assert json.loads((model_dir / "config.json").read_text())["rao_kedro_read_at"] == "end_of_turn"
        assert "read at end_of_turn" in reward(model_dir).identity
        assert reward(model_dir).score([GROUP])[0] == pytest.approx(plain_scores(model_dir), abs=1e-5)
        at_end = reward(model_dir, read_at="template_end").score([GROUP])[0]
        assert at_end != pytest.approx(plain_scores(model_dir), abs=0.01)
    assert "read at template_end" in reward(foreign_reward_model).identity
