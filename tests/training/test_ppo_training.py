"""PPO through the real loop on a tiny model, with a tiny reward model."""

import hashlib
import json

import pytest
import torch
from groups import log_of, parameters, reference, write_groups

from rao_kedro.errors import TrainingError
from rao_kedro.models.chat import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, save_checkpoint
from rao_kedro.models.logprobs import PackedLogProbs
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import pad_token_id_unlike_eos
from rao_kedro.models.value_head import PolicyAndTokenValues, TokenValues
from rao_kedro.schemas.specs import PPOSpec
from rao_kedro.schemas.training import RolloutParameters
from rao_kedro.training.launch import launch


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory, tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.pad_token_id = pad_token_id_unlike_eos(tokenizer)
    torch.manual_seed(0)
    model = load_reward_model(tiny_checkpoint)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    directory = tmp_path_factory.mktemp("reward") / "model"
    save_checkpoint(model, tokenizer, directory)
    return directory


def ppo_spec(directory, tiny_checkpoint, reward_model, training=None, **rollout):
    groups = write_groups(directory / "groups.parquet", 12)
    return PPOSpec(
        workspace=directory / "ppo",
        model_dir=tiny_checkpoint,
        groups_path=groups,
        reference_path=reference(directory, tiny_checkpoint, groups),
        reward_model_dir=reward_model,
        objective_parameters={"beta": 0.01},
        rollout=RolloutParameters(**({"max_tokens": 6, "samples_per_prompt": 4} | rollout)),
        training=training or parameters(max_tokens_per_batch=100),
    )


def hash_of(directory):
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def test_ppo_raises_the_score_and_leaves_reference_and_reward_model_alone(tmp_path, tiny_checkpoint, reward_model):
    before = [hash_of(tiny_checkpoint), hash_of(reward_model)]
    training = parameters(epochs=20, groups_per_step=8, max_tokens_per_batch=2000, eval_every_epochs=20, keep="last")
    spec = ppo_spec(tmp_path, tiny_checkpoint, reward_model, training, samples_per_prompt=16)
    launch("ppo", spec, None)
    steps, evaluations = log_of(spec.workspace)
    assert len(steps) == 20 * 1 * 4  # epochs, rollouts of 8 prompts, passes over each
    first = steps[0]
    assert first["clipped_share"] == 0 and abs(first["approximate_kl"]) < 1e-8
    assert abs(first["kl_to_reference"]) < 1e-4 and abs(first["policy_loss"]) < 1e-4
    mean = [sum(step["score"] for step in part) / len(part) for part in (steps[:12], steps[-12:])]  # of 3 rollouts each
    assert mean[1] > mean[0] + 0.3
    assert evaluations[-1]["eval_kl_to_reference"] > 0
    assert abs(evaluations[0]["eval_log_ratio_chosen"]) < 1e-3 < abs(evaluations[-1]["eval_log_ratio_chosen"])
    assert [hash_of(tiny_checkpoint), hash_of(reward_model)] == before
    load_causal_lm(spec.workspace / "model")


def test_a_killed_run_ends_with_the_same_weights(tmp_path, tiny_checkpoint, reward_model, monkeypatch):
    from rao_kedro.training.progress import Progress

    training = parameters(epochs=2, max_tokens_per_batch=100, checkpoint_every=1, keep="last")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for directory in (whole, killed):
        directory.mkdir()
    spec = ppo_spec(whole, tiny_checkpoint, reward_model, training)
    launch("ppo", spec, None)
    report = Progress.report

    def dies(self, step, **kwargs):
        report(self, step, **kwargs)
        if step == 7:
            raise KeyboardInterrupt

    spec = ppo_spec(killed, tiny_checkpoint, reward_model, training)
    monkeypatch.setattr(Progress, "report", dies)
    with pytest.raises(KeyboardInterrupt):
        launch("ppo", spec, None)
    monkeypatch.setattr(Progress, "report", report)
    launch("ppo", spec, None)
    assert hash_of(whole / "ppo/model") == hash_of(killed / "ppo/model")


def test_token_values_and_log_probs_stand_beside_the_same_tokens(tiny_checkpoint, reward_model):
    group = TokenizedGroup("a", [1, 50, 60], [[70, 71, 2], [80, 2]])
    policy = PackedLogProbs(load_causal_lm(tiny_checkpoint), temperature=0.7)
    classifier = load_reward_model(reward_model)
    logps, values = PolicyAndTokenValues(policy, TokenValues(classifier))(pack_groups([group]))
    row = torch.tensor([[1, 50, 60, 80, 2]])
    expected = (policy.model(input_ids=row).logits[0, 2:4] / 0.7).log_softmax(-1)
    torch.testing.assert_close(logps[3:], expected[[0, 1], [80, 2]], rtol=1e-4, atol=1e-4)
    hidden = classifier.base_model(input_ids=row).last_hidden_state[0, 2:4]
    torch.testing.assert_close(values[3:], classifier.score(hidden)[:, 0], rtol=1e-4, atol=1e-4)


def test_a_sharded_policy_is_refused(tmp_path, tiny_checkpoint, reward_model, monkeypatch):
    from accelerate.state import DistributedType

    from rao_kedro.training import distributed

    class Sharded:
        distributed_type = DistributedType.FSDP

    monkeypatch.setattr(distributed, "AcceleratorState", Sharded)
    with pytest.raises(TrainingError, match="ppo samples from the policy, which FSDP would shard"):
        launch("ppo", ppo_spec(tmp_path, tiny_checkpoint, reward_model), None)


def test_the_log_is_one_json_object_per_step(tmp_path, tiny_checkpoint, reward_model):
    training = parameters(epochs=1, max_tokens_per_batch=100, keep="best")
    spec = ppo_spec(tmp_path, tiny_checkpoint, reward_model, training, samples_per_prompt=1, passes=1)
    launch("ppo", spec, None)
    rows = [json.loads(line) for line in (spec.workspace / "training_log.jsonl").read_text().splitlines()]
    wanted = {"score", "kl_to_reference", "response_tokens", "policy_loss", "value_loss", "clipped_share"}
    assert all(wanted <= {name.removeprefix("eval_") for name in row} for row in rows)
