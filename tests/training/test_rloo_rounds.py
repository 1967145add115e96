"""RLOO through the real loop, round by round, on what a tiny policy samples."""

import pytest
from groups import log_of, parameters
from launching import IN_PROCESS
from rounds import rloo_round_spec, sample_round

from rao_kedro.errors import TrainingError
from rao_kedro.training.tasks.offline import OfflineAlignment
from rao_kedro.workers import launch


def test_rounds_of_rloo_raise_the_reward_and_each_begins_where_the_policy_stands(tmp_path, tiny_checkpoint):
    training = parameters(epochs=6, learning_rate=5e-3, batch_size=4, keep="last", max_tokens_per_batch=2000)
    model, rewards = tiny_checkpoint, []
    for number in range(4):
        groups = sample_round(tmp_path / f"{number}.parquet", model, samples=32, seed=number)
        reference_dir = tiny_checkpoint if number else None
        spec = rloo_round_spec(tmp_path / str(number), groups, model, training, reference_dir, beta=0.01)
        task = OfflineAlignment(spec)
        rewards.append(sum(sum(group.rewards) / 32 for group in task.train_groups) / len(task.train_groups))
        launch(spec, IN_PROCESS)
        steps, evaluations = log_of(spec.workspace)
        assert steps[0]["approximate_kl"] < 1e-8 and steps[0]["clip_fraction"] == 0
        assert steps[-1]["approximate_kl"] > 1e-4
        assert (abs(steps[0]["log_ratio_chosen"]) < 1e-3) == (number == 0)  # later the policy is not the reference
        assert ("eval_kl_to_reference" in evaluations[0]) == (number > 0)
        model = spec.trained_dir
    assert rewards[-1] > rewards[0] + 0.08


def test_minibatches_of_any_pack_start_at_a_ratio_of_1_and_learn_the_same(tmp_path, tiny_checkpoint):
    groups, last = sample_round(tmp_path / "groups.parquet", tiny_checkpoint), []
    for room in (20, 400):
        training = parameters(epochs=2, learning_rate=1e-3, batch_size=3, keep="last", max_tokens_per_batch=room)
        spec = rloo_round_spec(tmp_path / str(room), groups, tiny_checkpoint, training, normalise_advantages=True)
        launch(spec, IN_PROCESS)
        steps, _ = log_of(spec.workspace)
        assert steps[0]["approximate_kl"] < 1e-8
        last.append([step["loss"] for step in steps])
    assert last[0] == pytest.approx(last[1], abs=1e-4)


def test_a_resumed_round_ends_with_the_same_weights(tmp_path, tiny_checkpoint, killed_at_step_4):
    groups = sample_round(tmp_path / "groups.parquet", tiny_checkpoint)
    training = parameters(epochs=3, learning_rate=1e-3, keep="last", checkpoint_every=1)
    whole, killed = (
        rloo_round_spec(tmp_path / name, groups, tiny_checkpoint, training) for name in ("whole", "killed")
    )
    with pytest.raises(KeyboardInterrupt):
        launch(killed, IN_PROCESS)
    launch(killed, IN_PROCESS)
    launch(whole, IN_PROCESS)
    weights = [(spec.trained_dir / "model.safetensors").read_bytes() for spec in (whole, killed)]
    assert weights[0] == weights[1]


def test_a_policy_that_is_not_the_one_that_sampled_stops_before_the_first_update(tmp_path, tiny_checkpoint):
    groups = sample_round(tmp_path / "groups.parquet", tiny_checkpoint)
    task = OfflineAlignment(rloo_round_spec(tmp_path / "round", groups, tiny_checkpoint, parameters()))
    with pytest.raises(TrainingError, match=r"the policy is 0.5000 nats from the policy that sampled"):
        task.check_step_zero({"approximate_kl": 0.5, "loss": 0.0})
    task.check_step_zero({"approximate_kl": 0.0, "loss": 0.0})
