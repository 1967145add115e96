"""RLOO: a REINFORCE gradient where the policy is the one that sampled, whatever the group's size."""

from dataclasses import replace

import pytest
import torch
from batches import random_batch

from rao_kedro.objectives import make_objective


def on_policy(seed):
    """Ragged groups whose sampling policy is the policy itself."""
    batch = random_batch(seed)
    return replace(batch, sampling=batch.policy.detach())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clip_range", [0.01, 0.2])
def test_the_first_gradient_is_that_of_reinforce_with_a_leave_one_out_baseline(seed, clip_range):
    batch = on_policy(seed)
    out = make_objective("rloo", beta=0.3, clip_range=clip_range)(batch)
    (found,) = torch.autograd.grad(out.loss, batch.policy)
    expected = torch.zeros_like(found)
    for i, exists in enumerate(batch.mask.tolist()):
        columns = [j for j, there in enumerate(exists) if there]
        rewards = {j: batch.rewards[i, j] - 0.3 * (batch.sampling[i, j] - batch.reference[i, j]) for j in columns}
        surrogate = 0.0
        for j in columns:
            baseline = sum(rewards[k] for k in columns if k != j) / (len(columns) - 1)
            surrogate = surrogate - (rewards[j] - baseline).detach() * batch.policy[i, j] / len(columns)
        (gradient,) = torch.autograd.grad(surrogate / len(batch.mask), batch.policy)
        expected += gradient
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert out.metrics["clip_fraction"] == 0 and out.metrics["approximate_kl"] == 0


def test_advantages_are_0_in_the_mean_of_every_group_and_one_reward_for_all_teaches_nothing():
    batch, objective = on_policy(0), make_objective("rloo", beta=0.0)
    torch.testing.assert_close(objective.advantages(batch).sum(1), torch.zeros(3, dtype=torch.float64))
    equal = replace(batch, rewards=torch.full_like(batch.rewards, 7.0))
    assert float(objective.advantages(equal).abs().max()) < 1e-12


def test_advantages_of_all_samples_are_scaled_to_a_standard_deviation_of_1():
    batch = on_policy(1)
    plain, normalising = (make_objective("rloo", normalise_advantages=on) for on in (False, True))
    assert plain.calibrate_to_samples(batch) is plain
    calibrated = normalising.calibrate_to_samples(batch)
    advantages = plain.advantages(batch)[batch.mask]
    assert calibrated.scale == pytest.approx(float(advantages.std(correction=0)) + 1e-4)
    torch.testing.assert_close(calibrated(batch).loss * calibrated.scale, plain(batch).loss)


def test_no_gradient_reaches_rewards_sampling_or_reference():
    batch = random_batch(2)
    inputs = [x.detach().requires_grad_() for x in (batch.rewards, batch.sampling, batch.reference)]
    changed = replace(batch, **dict(zip(("rewards", "sampling", "reference"), inputs, strict=True)))
    assert not make_objective("rloo").advantages(changed).requires_grad


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="clip_range must be a positive number"):
        make_objective("rloo", clip_range=0)
    with pytest.raises(ValueError, match=r"has no parameter scale; it takes beta=0.05, clip_range=0.2"):
        make_objective("rloo", scale=2.0)
