"""PPO through the real loop on a tiny model, with a tiny reward model."""

import hashlib
import json
import shutil

import pytest
import torch
from groups import log_of, parameters, reference, write_groups
from launching import IN_PROCESS

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import PPOSpec
from rao_kedro.config.training import RolloutParameters
from rao_kedro.data.token_tables import read_groups
from rao_kedro.errors import DataError, ParameterError, TrainingError
from rao_kedro.generation import rollouts
from rao_kedro.generation.rollouts import Sampler
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.value_head import PolicyAndTokenValues, TokenValues
from rao_kedro.workers import launch


def ppo_spec(directory, tiny_checkpoint, reward_model, training=None, **rollout):
    groups = write_groups(directory / "groups.parquet", 12)
    reward = RewardParameters(parameters={"model_dir": str(reward_model), "mixed_precision": "no"})
    return PPOSpec(
        workspace=directory / "ppo",
        model_dir=tiny_checkpoint,
        groups_path=groups,
        reference_path=reference(directory, tiny_checkpoint, groups),
        reward_model_dir=reward_model,
        objective_parameters={"beta": 0.01},
        rollout=RolloutParameters(**({"max_new_tokens": 6, "samples_per_prompt": 4, "reward": reward} | rollout)),
        training=training or parameters(max_tokens_per_batch=100),
    )


def hash_of(directory):
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def share_of_letters(messages, response):
    """Random bytes spell few of them; most make no character, and so reach no reward model as they are."""
    return sum("a" <= character <= "z" for character in response) / 6


def test_ppo_raises_the_score_and_leaves_reference_and_reward_model_alone(tmp_path, tiny_checkpoint, tiny_reward_model):
    before = [hash_of(tiny_checkpoint), hash_of(tiny_reward_model)]
    training = parameters(epochs=20, batch_size=8, max_tokens_per_batch=2000, eval_every_epochs=20, keep="last")
    reward = RewardParameters(name="rules", parameters={"function": f"{__name__}:share_of_letters"})
    spec = ppo_spec(tmp_path, tiny_checkpoint, tiny_reward_model, training, samples_per_prompt=16, reward=reward)
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    assert len(steps) == 20 * 1 * 4  # epochs, rollouts of 8 prompts, passes over each
    first = steps[0]
    assert first["clip_fraction"] == 0 and abs(first["approximate_kl"]) < 1e-8
    assert abs(first["kl_to_reference"]) < 1e-4 and abs(first["policy_loss"]) < 1e-4
    mean = [sum(step["score"] for step in part) / len(part) for part in (steps[:12], steps[-12:])]  # of 3 rollouts each
    assert mean[1] > mean[0] + 0.3
    assert evaluations[-1]["eval_kl_to_reference"] > 0
    assert abs(evaluations[0]["eval_log_ratio_chosen"]) < 1e-3 < abs(evaluations[-1]["eval_log_ratio_chosen"])
    assert [hash_of(tiny_checkpoint), hash_of(tiny_reward_model)] == before
    load_causal_lm(spec.workspace / "model")


def test_rollouts_do_not_depend_on_how_many_are_written_at_a_time(tmp_path, tiny_checkpoint, monkeypatch):
    groups = read_groups(write_groups(tmp_path / "groups.parquet", 12), "train")
    policy, sampler = load_causal_lm(tiny_checkpoint).eval(), Sampler(tiny_checkpoint, 6, samples_per_prompt=3)
    found = []
    for tokens in (rollouts.TOKENS_AT_ONCE, 1, 100):
        monkeypatch.setattr(rollouts, "TOKENS_AT_ONCE", tokens)
        torch.manual_seed(0)
        with torch.no_grad():
            found.append([group.response_ids for group in sampler.sample(policy, groups)])
    assert found[0] == found[1] == found[2] and len(found[0]) == len(groups)


def test_a_killed_run_ends_with_the_same_weights(tmp_path, tiny_checkpoint, tiny_reward_model, monkeypatch):
    from rao_kedro.training.progress import Progress

    training = parameters(epochs=2, max_tokens_per_batch=100, checkpoint_every=1, keep="last")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for directory in (whole, killed):
        directory.mkdir()
    spec = ppo_spec(whole, tiny_checkpoint, tiny_reward_model, training)
    launch(spec, IN_PROCESS)
    report = Progress.report

    def dies(self, step, **kwargs):
        report(self, step, **kwargs)
        if step == 7:
            raise KeyboardInterrupt

    spec = ppo_spec(killed, tiny_checkpoint, tiny_reward_model, training)
    monkeypatch.setattr(Progress, "report", dies)
    with pytest.raises(KeyboardInterrupt):
        launch(spec, IN_PROCESS)
    monkeypatch.setattr(Progress, "report", report)
    launch(spec, IN_PROCESS)
    assert hash_of(whole / "ppo/model") == hash_of(killed / "ppo/model")


def test_token_values_and_log_probs_stand_beside_the_same_tokens(tiny_checkpoint, tiny_reward_model):
    group = TokenizedGroup("a", [1, 50, 60], [[70, 71, 2], [80, 2]])
    policy = LogProbModel(load_causal_lm(tiny_checkpoint), temperature=0.7)
    classifier = load_reward_model(tiny_reward_model)
    logps, values = PolicyAndTokenValues(policy, TokenValues(classifier))(pack_groups([group]))
    row = torch.tensor([[1, 50, 60, 80, 2]])
    expected = (policy.model(input_ids=row).logits[0, 2:4] / 0.7).log_softmax(-1)
    torch.testing.assert_close(logps[3:], expected[[0, 1], [80, 2]], rtol=1e-4, atol=1e-4)
    hidden = classifier.base_model(input_ids=row).last_hidden_state[0, 2:4]
    torch.testing.assert_close(values[3:], classifier.score(hidden)[:, 0], rtol=1e-4, atol=1e-4)


def test_a_sharded_policy_is_refused(tmp_path, tiny_checkpoint, tiny_reward_model, monkeypatch):
    from accelerate.state import DistributedType

    from rao_kedro import distributed

    class Sharded:
        distributed_type = DistributedType.FSDP

    monkeypatch.setattr(distributed, "AcceleratorState", Sharded)
    with pytest.raises(TrainingError, match="ppo samples from the policy, which FSDP would shard"):
        launch(ppo_spec(tmp_path, tiny_checkpoint, tiny_reward_model), IN_PROCESS)


def test_beta_is_not_adapted_while_training_samples(tmp_path, tiny_checkpoint, tiny_reward_model):
    spec = ppo_spec(tmp_path, tiny_checkpoint, tiny_reward_model)
    adaptive = {"kl_control": "adaptive"}
    with pytest.raises(ParameterError, match="ppo adapts beta from round to round only"):
        launch(spec.model_copy(update={"objective_parameters": adaptive}), IN_PROCESS)
    with pytest.raises(ValueError, match=r"samples in training, in no rounds: set rounds\.n, or kl_control: fixed"):
        MethodParameters(objective="ppo", parameters=adaptive, training=parameters(), rollout={"max_new_tokens": 4})


def test_a_reward_model_of_another_tokenizer_is_refused_as_the_value_network(
    tmp_path, tiny_checkpoint, tiny_reward_model
):
    tokenizer = load_tokenizer(tiny_reward_model)
    tokenizer.add_tokens(["<another>"])
    shutil.copytree(tiny_reward_model, tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(TrainingError, match=r"whose tokenizer is not the policy's: train a reward model"):
        launch(ppo_spec(tmp_path, tiny_checkpoint, tmp_path / "other"), IN_PROCESS)


def test_ppo_is_rewarded_by_rules_and_stops_where_they_do_not_apply(tmp_path, tiny_checkpoint, tiny_reward_model):
    rules = RewardParameters(name="rules", parameters={"requirements": [{"check": "max_words", "limit": 1}]})
    training = parameters(max_tokens_per_batch=200, keep="last")
    spec = ppo_spec(tmp_path, tiny_checkpoint, tiny_reward_model, training, reward=rules)
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    scores = [step["score"] for step in steps]
    assert max(scores) > 0 and min(scores) >= 0 and max(scores) <= 1
    none = ppo_spec(tmp_path, tiny_checkpoint, tiny_reward_model, training, reward=RewardParameters(name="rules"))
    with pytest.raises(DataError, match=r"a response to group g.* got no reward: the prompt has no requirements"):
        launch(none, IN_PROCESS)


def test_the_log_is_one_json_object_per_step(tmp_path, tiny_checkpoint, tiny_reward_model):
    training = parameters(epochs=1, max_tokens_per_batch=100, keep="best")
    spec = ppo_spec(tmp_path, tiny_checkpoint, tiny_reward_model, training, samples_per_prompt=1, ppo_epochs=1)
    launch(spec, IN_PROCESS)
    rows = [json.loads(line) for line in (spec.workspace / "training_log.jsonl").read_text().splitlines()]
    wanted = {"score", "kl_to_reference", "response_tokens", "policy_loss", "value_loss", "clip_fraction"}
    assert all(wanted <= {name.removeprefix("eval_") for name in row} for row in rows)
