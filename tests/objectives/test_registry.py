"""The registry: readable without torch, and what it declares of an objective is what the objective reads."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from batches import random_batch

from rao_kedro.objectives import LogProbBatch, get_requirements, make_objective, objective_names
from rao_kedro.objectives.pairwise import PairwiseObjective

OFFLINE = [name for name in objective_names() if get_requirements(name).reads != "rollouts"]
TENSORS = {
    "reference": ["reference"],
    "rewards": ["rewards"],
    "value_network": ["values"],
    "mismatched_pairs": ["mismatched_policy", "mismatched_reference"],
    "sampling_logps": ["sampling"],
    "reference_rewards": ["reference_rewards"],
    "prompt_logps": ["policy_prompt", "reference_prompt"],
}


def declared(name):
    """Return the tensors that a batch needs by the objective's declaration."""
    needs = get_requirements(name)
    return [tensor for field, tensors in TENSORS.items() if getattr(needs, field) for tensor in tensors]


def batch_of(tensors):
    batch = random_batch(0)
    left_out = [name for names in TENSORS.values() for name in names if name not in tensors]
    return replace(batch, **dict.fromkeys(left_out))


def test_names_and_requirements_are_known_without_torch():
    code = (
        "import sys\n"
        "from rao_kedro.objectives import get_requirements, objective_names\n"
        "assert get_requirements('kto').mismatched_pairs and len(objective_names()) >= 16\n"
        "print('torch' in sys.modules)\n"
        "from rao_kedro.objectives import LogProbBatch\n"
        "print('torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", OFFLINE)
def test_an_objective_reads_what_it_declares_and_nothing_else(name):
    tensors = declared(name)
    assert torch.isfinite(make_objective(name)(batch_of(tensors)).loss)
    for missing in tensors:
        if not missing.startswith("mismatched"):  # a batch with only one of the two has no valid shape
            with pytest.raises(ValueError, match=f"needs .*{missing}"):
                make_objective(name)(batch_of([tensor for tensor in tensors if tensor != missing]))


@pytest.mark.parametrize("name", OFFLINE)
def test_an_objective_of_pairs_reads_two_columns_and_one_of_groups_reads_all(name):
    batch, objective = random_batch(0), make_objective(name)
    (gradient,) = torch.autograd.grad(objective(batch).loss, batch.policy)
    reads = get_requirements(name).reads
    assert isinstance(objective, PairwiseObjective) == (reads == "pairs")
    assert bool((gradient[1:, 2:] == 0).all()) == (reads == "pairs")


@pytest.mark.parametrize("name", OFFLINE)
def test_prompt_log_probs_are_declared_where_the_objective_asks_for_them(name):
    assert get_requirements(name).prompt_logps == (make_objective(name).prompt_gradient != "none")


def test_only_rloo_needs_responses_that_the_policy_has_just_sampled():
    assert [name for name in objective_names() if get_requirements(name).on_policy] == ["rloo"]


def test_rollouts_are_read_by_ppo_alone():
    assert [name for name in objective_names() if get_requirements(name).reads == "rollouts"] == ["ppo"]
    assert get_requirements("ppo").value_network and get_requirements("ppo").reference


@pytest.mark.parametrize("name", OFFLINE)
def test_the_expected_initial_loss_is_the_loss_at_the_reference(name):
    objective, batch = make_objective(name), random_batch(1)
    expected = objective.expected_initial_loss()
    loss = objective(replace(batch, policy=batch.reference)).loss.item()
    assert expected is None or loss == pytest.approx(expected, abs=1e-12)
    assert (expected is not None) == (name == "dpo")


def test_label_smoothing_leaves_the_initial_loss_of_dpo_at_ln_2():
    batch = random_batch(1)
    objective = make_objective("dpo", label_smoothing=0.2)
    loss = objective(replace(batch, policy=batch.reference)).loss.item()
    assert loss == pytest.approx(objective.expected_initial_loss(), abs=1e-12)


def test_only_rao_is_calibrated():
    rewards = [[1.0, 0.0], [3.0, 2.0]]
    for name in OFFLINE:
        objective = make_objective(name)
        assert objective.calibrate(rewards) is objective and objective.solve_log_z0(rewards) is None
    auto = make_objective("rao", beta=0.5, log_z0="auto")
    assert auto.calibrate(rewards) == make_objective("rao", beta=0.5, log_z0=3.0)
    assert auto.solve_log_z0(rewards) == 3.0


def test_rao_needs_reference_rewards_only_to_estimate_log_z0_from_them():
    """exp(r / beta) = (1, 4) and (2, 2): log Z = log 2.5 and log 2, whatever the rewards of the training responses."""
    assert not get_requirements("rao", {"log_z0": "auto"}).reference_rewards
    assert get_requirements("rao", {"log_z0": "estimated"}).reference_rewards
    estimated = make_objective("rao", beta=0.5, log_z0="estimated")
    sampled = [[0.0, math.log(4) / 2], [math.log(2) / 2] * 2, []]
    expected = (math.log(2.5) + math.log(2)) / 2
    assert estimated.solve_log_z0([[1.0, 0.0]]) is None and estimated.calibrate([[1.0, 0.0]]) is estimated
    assert estimated.solve_log_z0([[1.0, 0.0]], sampled) == pytest.approx(expected, rel=1e-12)
    calibrated = estimated.calibrate([[1.0, 0.0]], sampled)
    assert calibrated == make_objective("rao", beta=0.5, log_z0=estimated.solve_log_z0([], sampled))
    batch = random_batch(0)
    rows = [row[~row.isnan()].tolist() for row in batch.reference_rewards]
    assert estimated(batch).loss == estimated.calibrate([], rows)(batch).loss
    with pytest.raises(ValueError, match="needs reference_rewards"):
        estimated(replace(batch, reference_rewards=None))
    with pytest.raises(ValueError, match="margin belongs"):
        make_objective("rao", log_z0="estimated", margin=1.0)


def test_a_batch_of_plain_tensors_has_all_responses():
    """Two groups of two; mask and lengths are left out. The rewards' mean is 0, so "auto" solves log_z0 = 0.

    h = (1, -1), (0, 0); residuals with beta 1: (1 - 1, -1 + 1), (2 - 0, -2 - 0); L = (0 + 4) / 2
    """
    policy = torch.tensor([[-9.0, -11.0], [-5.0, -6.0]], requires_grad=True)
    batch = LogProbBatch(
        policy=policy,
        reference=torch.tensor([[-10.0, -10.0], [-5.0, -6.0]]),
        rewards=torch.tensor([[1.0, -1.0], [2.0, -2.0]]),
    )
    out = make_objective("rao", beta=1.0, log_z0="auto", prompt_term="none")(batch)
    assert out.loss.item() == pytest.approx(2.0)
    out.loss.backward()
    assert policy.grad is not None and policy.grad[0].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="needs lengths"):
        make_objective("simpo")(batch)
