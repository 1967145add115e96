"""The identities that tie the objectives together, over random tensors in float64."""

import math
from dataclasses import replace

import torch
from batches import random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from rao_kedro.objectives import make_objective

seeds = st.integers(0, 10_000)
temperatures = st.floats(0.02, 2)
exact = {"rtol": 1e-9, "atol": 1e-9}


def pairs(seed):
    """A batch with K = 2 everywhere."""
    batch = random_batch(seed, responses=2)
    return replace(batch, mask=torch.ones_like(batch.mask))


def residuals(batch, beta, log_z0):
    log_z = log_z0 + (batch.policy_prompt - batch.reference_prompt).detach()
    return batch.rewards - beta * (batch.policy - batch.reference) - beta * log_z[:, None]


@settings(deadline=None, max_examples=25)
@given(seed=seeds, beta=temperatures, log_z0=st.floats(-50, 500))
def test_rao_splits_into_the_variance_of_residuals_and_their_squared_mean(seed, beta, log_z0):
    batch = random_batch(seed)
    split = []
    for d, mask in zip(residuals(batch, beta, log_z0), batch.mask, strict=True):
        d = d[mask]
        split.append((d[:, None] - d[None, :]).square().sum() / (2 * len(d) ** 2) + d.mean() ** 2)
    loss = make_objective("rao", beta=beta, log_z0=log_z0)(batch).loss
    torch.testing.assert_close(loss, torch.stack(split).mean(), **exact)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, beta=temperatures, log_z0=st.floats(-50, 50))
def test_rao_of_pairs_is_a_quarter_of_reward_distillation_and_the_squared_mean_residual(seed, beta, log_z0):
    batch = pairs(seed)
    distilled = make_objective("rpo_distill", beta=beta)(batch).loss
    mean_residual = residuals(batch, beta, log_z0).mean(1)
    loss = make_objective("rao", beta=beta, log_z0=log_z0)(batch).loss
    torch.testing.assert_close(loss, distilled / 4 + mean_residual.square().mean(), **exact)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, tau=temperatures)
def test_ipo_is_reward_distillation_of_a_constant_gap_of_one_half(seed, tau):
    batch = pairs(seed)
    constant = replace(batch, rewards=torch.tensor([[0.5, 0.0]], dtype=torch.float64).expand(3, 2))
    distilled = make_objective("rpo_distill", beta=tau)(constant).loss
    torch.testing.assert_close(make_objective("ipo", tau=tau)(batch).loss, distilled / tau**2, **exact)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, beta=temperatures)
def test_the_calibration_of_cal_dpo_is_rao_with_rewards_of_one_half(seed, beta):
    batch = pairs(seed)
    constant = replace(batch, rewards=torch.tensor([[0.5, -0.5]], dtype=torch.float64).expand(3, 2))
    rao = make_objective("rao", beta=beta, log_z0=0.0, prompt_term="none")(constant).loss
    cal_dpo, dpo = (
        make_objective(n, **p)(batch).loss for n, p in (("cal_dpo", {"beta": beta}), ("dpo", {"beta": 1.0}))
    )
    torch.testing.assert_close(cal_dpo - dpo, 2 / beta**2 * rao, rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, tau=temperatures)
def test_dro_at_its_best_value_is_half_the_pairwise_part(seed, tau):
    batch = random_batch(seed)
    achieved = tau * batch.log_ratio().detach()
    best = [(r - a)[m].mean() for r, a, m in zip(batch.rewards, achieved, batch.mask, strict=True)]
    objective = make_objective("dro", tau=tau)
    at_best = objective(replace(batch, values=torch.stack(best).requires_grad_()))
    value_loss = at_best.metrics["value_loss"]
    variances = [(r - a)[m].var(correction=0) for r, a, m in zip(batch.rewards, achieved, batch.mask, strict=True)]
    torch.testing.assert_close(value_loss, torch.stack(variances).mean() / 2, **exact)
    elsewhere = replace(batch, values=torch.stack(best) + 0.1)
    assert objective(elsewhere).metrics["value_loss"] > value_loss


@settings(deadline=None, max_examples=25)
@given(seed=seeds)
def test_the_two_baselines_of_kimi_k15_meet_as_tau_grows(seed):
    batch = random_batch(seed)
    far = {"tau": 1e6}
    mean, log_mean_exp = (
        make_objective("kimi_k15", group_baseline=b, **far).baseline(batch) for b in ("mean", "log_mean_exp")
    )
    torch.testing.assert_close(mean, log_mean_exp, rtol=1e-4, atol=1e-4)
    near = make_objective("kimi_k15", group_baseline="log_mean_exp", tau=1e-3).baseline(batch)
    best = batch.rewards.masked_fill(~batch.mask, -math.inf).max(1).values
    torch.testing.assert_close(near, best, rtol=0, atol=1e-3 * math.log(4) + 1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, tau=temperatures)
def test_the_gradient_of_dgro_is_that_of_kimi_k15_where_its_weights_are_1_and_tau(seed, tau):
    batch = random_batch(seed)
    (kimi,) = torch.autograd.grad(make_objective("kimi_k15", tau=tau)(batch).loss, batch.policy)
    dgro = make_objective("dgro", policy_weight=1.0, regularization_weight=tau)
    (found,) = torch.autograd.grad(dgro(batch).loss, batch.policy)
    torch.testing.assert_close(found, kimi / (2 * tau), rtol=1e-7, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, tau=temperatures, shift=st.floats(-20, 20))
def test_baselines_made_of_rewards_ignore_a_shift_of_all_rewards(seed, tau, shift):
    batch = random_batch(seed)
    shifted = replace(batch, rewards=batch.rewards + shift)
    for name in ("kimi_k15", "rpo_partition"):
        objective = make_objective(name, tau=tau)
        torch.testing.assert_close(objective(batch).loss, objective(shifted).loss, rtol=1e-7, atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, beta=temperatures)
def test_dpo_shift_at_1_and_dpop_without_penalty_are_dpo(seed, beta):
    batch = random_batch(seed)
    dpo = make_objective("dpo", beta=beta)(batch).loss
    torch.testing.assert_close(make_objective("dpo_shift", beta=beta, f=1.0)(batch).loss, dpo, **exact)
    torch.testing.assert_close(make_objective("dpop", beta=beta, **{"lambda": 0.0})(batch).loss, dpo, **exact)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, beta=temperatures)
def test_qrpo_is_rao_of_quantiles_whose_normaliser_is_known(seed, beta):
    batch, qrpo = random_batch(seed), make_objective("qrpo", beta=beta)
    log_z0 = math.log(beta) + math.log(math.expm1(1 / beta))
    rao = make_objective("rao", beta=beta, log_z0=log_z0, prompt_term="none")
    found, expected = qrpo(batch), rao(replace(batch, rewards=qrpo.regressed_rewards(batch)))
    torch.testing.assert_close(found.loss, expected.loss, **exact)
    gradients = [torch.autograd.grad(out.loss, batch.policy)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients, **exact)
    for name in ("log_z", "target_mean", "log_target_mass"):
        torch.testing.assert_close(found.metrics[name], expected.metrics[name], **exact)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_qrpo_reads_the_order_of_rewards_and_nothing_else(seed, shift, scale):
    batch = random_batch(seed)
    moved = replace(batch, **{n: (scale * getattr(batch, n) + shift).exp() for n in ("rewards", "reference_rewards")})
    torch.testing.assert_close(make_objective("qrpo")(moved).loss, make_objective("qrpo")(batch).loss, rtol=0, atol=0)


@settings(deadline=None, max_examples=25)
@given(seed=seeds, eta=st.sampled_from([0.5, 2.0, 16.0]))
def test_rebel_is_reward_distillation_with_the_inverse_of_eta(seed, eta):
    batch = random_batch(seed)
    rebel, distilled = make_objective("rebel", eta=eta)(batch), make_objective("rpo_distill", beta=1 / eta)(batch)
    assert torch.equal(rebel.loss, distilled.loss)
    assert rebel.metrics.keys() == distilled.metrics.keys()
