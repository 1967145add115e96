"""SFT, reward modelling and alignment through the real loop on a tiny model."""

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_tables import tokenize_groups
from groups import alignment_spec, log_of, parameters, reference, write_groups
from launching import IN_PROCESS
from padded import padded_rewards
from transformers import AutoConfig, AutoModelForCausalLM

from rao_kedro.config.specs import RewardTrainingSpec, TrainingSpec
from rao_kedro.config.training import KLParameters
from rao_kedro.data.tokenize import TokenLimits
from rao_kedro.errors import ModelError, ParameterError, TrainingError
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, save_checkpoint
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import RewardModel
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.training.tasks.offline import OfflineAlignment
from rao_kedro.workers import launch


@pytest.fixture
def groups_path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 12)


def test_sft_lowers_the_loss_and_saves_a_plain_checkpoint(tmp_path, tiny_checkpoint, groups_path):
    spec = TrainingSpec(
        workspace=tmp_path / "sft", model_dir=tiny_checkpoint, groups_path=groups_path, training=parameters(epochs=4)
    )
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    assert len(steps) == 8 and len(evaluations) == 5
    assert steps[-1]["loss"] < steps[0]["loss"]
    models = (AutoModelForCausalLM.from_pretrained(path) for path in (tiny_checkpoint, spec.workspace / "model"))
    before, after = (model.state_dict() for model in models)
    assert {name: weight.shape for name, weight in after.items()} == {name: w.shape for name, w in before.items()}
    assert all(not torch.equal(after[name], weight) for name, weight in before.items() if "proj" in name)


def test_sft_learns_no_end_from_a_response_that_was_cut(tmp_path, tiny_checkpoint):
    """The same texts, finished and cut: only finished ones make their end likelier."""
    chat = load_chat_format(tiny_checkpoint)
    messages = {split: [{"role": "user", "content": f"{split} fox"}] for split in ("train", "test")}
    end_logps = {"before": logp_of_end(chat, tiny_checkpoint, messages["train"])}
    for finished in (True, False):
        rows = [
            {
                "group_id": f"g{i}",
                "split": split,
                "messages": messages[split],
                "responses": [f"the dog {i}", "a"],
                "ratings": [1.0, 0.0],
                "finished": [finished, True],
                "source": str(i),
                "requirements": "[]",
            }
            for i, split in enumerate(["train"] * 4 + ["test"])
        ]
        tokenized, _ = tokenize_groups(pd.DataFrame(rows), chat, TokenLimits(60, 60), "best_vs_worst", seed=0)
        tokenized.to_parquet(path := tmp_path / f"{finished}.parquet")
        spec = TrainingSpec(
            workspace=tmp_path / f"sft_{finished}",
            model_dir=tiny_checkpoint,
            groups_path=path,
            training=parameters(epochs=8, learning_rate=1e-2, keep="last", max_tokens_per_batch=200),
        )
        launch(spec, IN_PROCESS)
        end_logps[finished] = logp_of_end(chat, spec.workspace / "model", messages["train"])
    assert end_logps[True] > end_logps["before"] + 1
    assert end_logps[False] < end_logps["before"]


def logp_of_end(chat, model_dir, messages):
    """Return how likely the end-of-turn token is behind a response that SFT learns, in nats."""
    *ids, end = [*prompt_token_ids(chat, messages), *response_token_ids(chat, messages, "the dog 0")]
    with torch.no_grad():
        return load_causal_lm(model_dir)(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[end].item()


def test_reward_model_learns_a_separable_rule_and_scores_as_plain_transformers(tmp_path, tiny_checkpoint):
    spec = RewardTrainingSpec(
        workspace=tmp_path / "reward",
        model_dir=tiny_checkpoint,
        groups_path=write_groups(tmp_path / "groups.parquet", 300),
        training=parameters(epochs=4),
    )
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    assert steps[-1]["accuracy"] > 0.9 and max(e["eval_accuracy"] for e in evaluations) > 0.8
    model = load_reward_model(spec.workspace / "model")
    group = TokenizedGroup("x", [1, 50, 60], [[70, 2], [80, 81, 82, 2]])
    with torch.no_grad():
        packed = RewardModel(model)(pack_groups([group]))[0]
        torch.testing.assert_close(packed, padded_rewards(model, group), rtol=1e-5, atol=1e-5)


def test_rao_moves_log_ratios_to_their_targets(tmp_path, tiny_checkpoint, groups_path):
    reference(tmp_path, tiny_checkpoint, groups_path)
    training = parameters(epochs=15, learning_rate=3e-4, keep="last")
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, training=training, beta=1.0, log_z0="auto")
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    assert abs(steps[0]["log_ratio_chosen"]) < 1e-3 and abs(steps[0]["prompt_log_ratio"]) < 1e-3
    assert steps[0]["loss"] == pytest.approx(2 / 3, abs=1e-3)  # mean of (1, 0, 1) for rewards (-1, 0, 1), log_z0 = 0
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert steps[-1]["log_ratio_chosen"] > 0.3 and steps[-1]["log_ratio_rejected"] < -0.3


def test_an_evaluation_samples_how_far_the_policy_is_from_the_reference(tmp_path, tiny_checkpoint, groups_path):
    """Responses of one token: the KL divergence is a sum over the vocabulary."""
    reference(tmp_path, tiny_checkpoint, groups_path)
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, "dpo")
    task = OfflineAlignment(spec.model_copy(update={"kl": KLParameters(max_new_tokens=1)}))
    module = task.load().eval()
    prompts = [replace(task.eval_groups[0], group_id=f"copy {i}") for i in range(400)]
    assert task.estimate_kl(module, prompts) == pytest.approx({"kl_to_reference": 0, "kl_to_reference_stderr": 0})
    torch.manual_seed(0)
    with torch.no_grad():
        module.model.lm_head.weight += 0.3 * torch.randn_like(module.model.lm_head.weight)
        row = torch.tensor([[*prompts[0].prompt_ids]])
        ours, theirs = (
            model(input_ids=row).logits[0, -1].log_softmax(-1)
            for model in (module.model, load_causal_lm(tiny_checkpoint))
        )
    exact = float((ours.exp() * (ours - theirs)).sum())
    measured = task.estimate_kl(module, prompts)
    assert measured["kl_to_reference_stderr"] < 0.1 * exact
    assert abs(measured["kl_to_reference"] - exact) < 3 * measured["kl_to_reference_stderr"]


def test_a_sharded_policy_is_trained_without_that_measure(tmp_path, tiny_checkpoint, groups_path, monkeypatch):
    reference(tmp_path, tiny_checkpoint, groups_path)
    monkeypatch.setattr("rao_kedro.training.tasks.offline.sharding", lambda: "FSDP")
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, training=parameters())
    launch(spec, IN_PROCESS)
    _, evaluations = log_of(spec.workspace)
    assert all("eval_kl_to_reference" not in evaluated for evaluated in evaluations)


def test_dpo_starts_at_ln_2_and_learns(tmp_path, tiny_checkpoint, groups_path):
    reference(tmp_path, tiny_checkpoint, groups_path)
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, "dpo", beta=0.5)
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert steps[-1]["margin"] > 0.2


def test_log_ratios_that_are_not_0_stop_before_the_first_update(tmp_path, tiny_checkpoint, groups_path):
    """As a wrong mask would make them, or another template, or dropout."""
    path = reference(tmp_path, tiny_checkpoint, groups_path)
    rows = pq.read_table(path).to_pylist()
    shifted = [{**row, "response_logps": [logp - 1.0 for logp in row["response_logps"]]} for row in rows]
    pq.write_table(pa.Table.from_pylist(shifted), path)
    with pytest.raises(TrainingError, match=r"before the first update log_ratio_chosen is 1\.000 nats instead of 0"):
        launch(alignment_spec(tmp_path, tiny_checkpoint, groups_path, log_z0=0.0), IN_PROCESS)


def test_an_unknown_objective_parameter_is_named(tmp_path, tiny_checkpoint, groups_path):
    reference(tmp_path, tiny_checkpoint, groups_path)
    with pytest.raises(ParameterError, match="has no parameter gamma"):
        launch(alignment_spec(tmp_path, tiny_checkpoint, groups_path, gamma=1.0), IN_PROCESS)


def test_the_policy_has_no_dropout_since_the_reference_had_none(tmp_path, tiny_checkpoint, groups_path):
    config = AutoConfig.from_pretrained(tiny_checkpoint, attention_dropout=0.5)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, config=config)
    save_checkpoint(model, load_tokenizer(tiny_checkpoint), with_dropout := tmp_path / "with_dropout")
    reference(tmp_path, tiny_checkpoint, groups_path, with_dropout)
    launch(spec := alignment_spec(tmp_path, with_dropout, groups_path, "dpo", beta=1.0), IN_PROCESS)
    first_step = log_of(spec.workspace)[0][0]
    assert abs(first_step["log_ratio_chosen"]) < 1e-3


def test_a_prompt_and_response_longer_than_a_pack_are_named(tmp_path, tiny_checkpoint, groups_path):
    spec = TrainingSpec(
        workspace=tmp_path / "sft",
        model_dir=tiny_checkpoint,
        groups_path=groups_path,
        training=parameters(max_tokens_per_batch=5),
    )
    with pytest.raises(TrainingError, match=r"prompt of group g\d+ and one .* 10 tokens, more than .* = 5"):
        launch(spec, IN_PROCESS)


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}


def test_rows_beyond_the_rotary_limit_end_training_before_its_first_step(tmp_path, groups_path):
    """Prompts have 5 tokens, chosen responses 5 and the longest 6; KL is measured on responses of up to 7."""
    tight = build_tiny_checkpoint(tmp_path / "tight", rope_parameters=DYNAMIC, max_position_embeddings=9)
    spec = TrainingSpec(workspace=tmp_path / "a", model_dir=tight, groups_path=groups_path, training=parameters())
    with pytest.raises(ModelError, match="the longest row of group g0, a prompt and a response, has 10 tokens"):
        launch(spec, IN_PROCESS)
    fitting = build_tiny_checkpoint(tmp_path / "fitting", rope_parameters=DYNAMIC, max_position_embeddings=11)
    reference(tmp_path, fitting, groups_path)
    spec = alignment_spec(tmp_path, fitting, groups_path, training=parameters())
    with pytest.raises(ModelError, match=r"a prompt of 5 tokens with 7 to write has 12 tokens\. Beyond 11"):
        launch(spec.model_copy(update={"kl": KLParameters(max_new_tokens=7)}), IN_PROCESS)
    launch(spec, IN_PROCESS)
    assert all((spec.workspace / name).exists() for name in ("model", "training_log.jsonl"))
    assert not (tmp_path / "a/model").exists()
