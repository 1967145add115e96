"""RAO and DPO against hand-written arithmetic, and the identities of the method."""

import math
from dataclasses import replace

import pytest
import torch
from batches import one_group, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from rao_kedro.objectives import make_objective, objective_names
from rao_kedro.objectives.log_z0 import solve_log_z0


def test_rao_equals_hand_arithmetic():
    """beta 0.1, log_z0 2: log Z = 2.5.

    d_w = 0.3 - 0.1*1 - 0.25 = -0.05;  d_l = -0.1 + 0.2 - 0.25 = -0.15
    L = (0.0025 + 0.0225) / 2 = 0.0125
    """
    out = make_objective("rao", beta=0.1, log_z0=2.0)(one_group())
    assert out.loss.item() == pytest.approx(0.0125, abs=1e-7)
    assert out.metrics["log_z"].item() == pytest.approx(2.5)
    assert out.metrics["rewards_chosen"].item() == pytest.approx(0.1)
    assert out.metrics["rewards_rejected"].item() == pytest.approx(-0.2)
    # targets: 0.3/0.1 - 2.5 = 0.5 and -1 - 2.5 = -3.5
    assert out.metrics["target_mean"].item() == pytest.approx(-1.5, abs=1e-5)


def test_dpo_equals_hand_arithmetic():
    """beta 0.1: logits = 0.1 * (1 + 2) = 0.3; L = log(1 + exp(-0.3)) = 0.554355."""
    out = make_objective("dpo", beta=0.1)(one_group())
    assert out.loss.item() == pytest.approx(0.5543552, abs=1e-6)


def test_label_smoothed_dpo_mixes_both_labels():
    """L = 0.9 * log(1+exp(-0.3)) + 0.1 * log(1+exp(0.3)) = 0.498920 + 0.085436."""
    out = make_objective("dpo", beta=0.1, label_smoothing=0.1)(one_group())
    assert out.loss.item() == pytest.approx(0.9 * 0.5543552 + 0.1 * 0.8543552, abs=1e-6)


def test_dpo_at_step_0_is_ln_2():
    batch = one_group()
    out = make_objective("dpo")(replace(batch, policy=batch.reference))
    assert out.loss.item() == pytest.approx(math.log(2), abs=1e-7)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), shift=st.floats(-20, 20), beta=st.floats(0.02, 2), log_z0=st.floats(-50, 500))
def test_shifting_rewards_equals_shifting_log_z0(seed, shift, beta, log_z0):
    batch = random_batch(seed)
    shifted = replace(batch, rewards=batch.rewards + shift)
    loss = make_objective("rao", beta=beta, log_z0=log_z0)(batch).loss
    other = make_objective("rao", beta=beta, log_z0=log_z0 + shift / beta)(shifted).loss
    torch.testing.assert_close(loss, other, rtol=1e-8, atol=1e-8)
    (grad,) = torch.autograd.grad(loss, batch.policy)
    (other_grad,) = torch.autograd.grad(other, batch.policy)
    torch.testing.assert_close(grad, other_grad, rtol=1e-7, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), reduction=st.sampled_from(["prompt_mean", "flat"]))
def test_rao_equals_an_independent_loop_in_float64(seed, reduction):
    batch = random_batch(seed)
    objective = make_objective("rao", beta=0.3, log_z0=4.0, reduction=reduction)
    out = objective(batch)
    per_group = []
    for i in range(3):
        squares = [
            (
                float(batch.rewards[i, j])
                - 0.3 * float(batch.policy.detach()[i, j] - batch.reference[i, j])
                - 0.3 * (4.0 + float(batch.policy_prompt.detach()[i] - batch.reference_prompt[i]))
            )
            ** 2
            for j in range(4)
            if batch.mask[i, j]
        ]
        per_group.append(squares)
    if reduction == "prompt_mean":
        expected = sum(sum(g) / len(g) for g in per_group) / len(per_group)
    else:
        expected = sum(map(sum, per_group)) / sum(map(len, per_group))
    assert out.loss.item() == pytest.approx(expected, rel=1e-10)
    assert objective.loss_is_mean_over == ("groups" if reduction == "prompt_mean" else "responses")


def test_prompt_gets_gradient_only_when_attached():
    for prompt_term, expects_gradient in (("detached", False), ("attached", True), ("none", False)):
        batch = random_batch(1)
        make_objective("rao", prompt_term=prompt_term)(batch).loss.backward()
        assert (batch.policy_prompt.grad is not None and bool(batch.policy_prompt.grad.abs().sum() > 0)) == (
            expects_gradient
        )


def test_masked_responses_change_nothing_and_get_no_gradient():
    batch = random_batch(3)
    changed = replace(
        batch,
        policy=torch.where(batch.mask, batch.policy.detach(), torch.full_like(batch.policy, -1e4)).requires_grad_(),
        rewards=torch.where(batch.mask, batch.rewards, torch.full_like(batch.rewards, 77.0)),
    )
    objective = make_objective("rao")
    assert objective(batch).loss.item() == objective(changed).loss.item()
    objective(changed).loss.backward()
    assert bool((changed.policy.grad[~changed.mask] == 0).all())


@pytest.mark.parametrize(("scale", "factor"), [("none", 1), ("inverse_beta", 10), ("inverse_beta_squared", 100)])
def test_gradient_scale_multiplies_the_loss(scale, factor):
    plain = make_objective("rao", beta=0.1)(one_group()).loss
    assert make_objective("rao", beta=0.1, gradient_scale=scale)(one_group()).loss.item() == pytest.approx(
        factor * plain.item(), rel=1e-6
    )


@pytest.mark.parametrize("reduction", ["prompt_mean", "flat"])
def test_auto_log_z0_is_solved_for_the_reduction_of_the_loss(reduction):
    """The loss at step 0 is lowest at the solved log_z0, whatever its mean runs over."""
    batch = replace(random_batch(1), policy=random_batch(1).reference)
    batch = replace(batch, policy_prompt=batch.reference_prompt)
    auto = make_objective("rao", beta=0.2, log_z0="auto", reduction=reduction)
    given = [row[there].tolist() for row, there in zip(batch.rewards, batch.mask, strict=True)]
    solved = auto.calibrate(given)
    assert auto.calibrate_to_batch(batch) == solved and solved.margin == 0
    losses = [replace(solved, log_z0=solved.log_z0 + shift)(batch).loss.item() for shift in (-0.1, 0.0, 0.1)]
    assert losses[1] < min(losses[0], losses[2])
    assert losses[0] == pytest.approx(losses[2], rel=1e-9)


def test_auto_log_z0_puts_the_mean_target_at_the_margin():
    batch = random_batch(5)
    log_z0 = solve_log_z0([r[m].tolist() for r, m in zip(batch.rewards, batch.mask, strict=True)], beta=0.2, margin=1.5)
    auto = make_objective("rao", beta=0.2, log_z0="auto", margin=1.5)
    assert auto.calibrate_to_batch(batch).log_z0 == pytest.approx(log_z0)
    solved = make_objective("rao", beta=0.2, log_z0=log_z0)
    torch.testing.assert_close(auto(batch).loss, solved(batch).loss, rtol=1e-9, atol=0)
    per_prompt = [(batch.rewards[i][batch.mask[i]] / 0.2 - log_z0).mean() for i in range(3)]
    assert sum(per_prompt).item() / 3 == pytest.approx(1.5)


def test_a_log_z0_that_lowers_the_chosen_likelihood_comes_with_one_that_raises_it():
    """Chosen rewards 2 and 4, beta 0.1, log_z0 50: targets 20 - 50 and 40 - 50, mean -20; 30 raises the mean one."""
    remark = make_objective("rao", beta=0.1, log_z0=50.0).remark_on_targets([2.0, 4.0])
    assert remark is not None and "target log-ratio is -20.00 nats, and 100% of them" in remark
    assert "log_z0 <= 30.00 raises the mean target above 0, log_z0 <= 20.00 raises every target above 0" in remark
    assert make_objective("rao", beta=0.1, log_z0=29.0).remark_on_targets([2.0, 4.0]) is None


def test_unknown_names_and_parameters_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown objective 'rpo'.*rao, dpo"):
        make_objective("rpo")
    with pytest.raises(ValueError, match=r"no parameter betta; it takes beta=0.1, log_z0=50.0"):
        make_objective("rao", betta=1)
    with pytest.raises(ValueError, match="beta must be a positive number, got 0"):
        make_objective("dpo", beta=0)
    with pytest.raises(ValueError, match='margin belongs to log_z0 "auto"'):
        make_objective("rao", log_z0=3.0, margin=1.0)
    with pytest.raises(ValueError, match="log_z0 other than"):
        make_objective("rao", log_z0="automatic")
    with pytest.raises(ValueError, match="prompt_term must be one of"):
        make_objective("rao", prompt_term="maybe")
    assert objective_names()[:2] == ["rao", "dpo"]


def test_batches_with_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"rewards must have shape \[1, 2\], got \[1, 3\]"):
        one_group(rewards=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="needs a chosen"):
        one_group(mask=torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="needs rewards"):
        make_objective("rao")(one_group(rewards=None))
