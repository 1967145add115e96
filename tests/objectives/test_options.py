"""Options that several objectives share: terms and weights of pairwise losses, and the robust loss of RAO."""

import math
from dataclasses import replace

import pytest
import torch
from batches import random_batch

from rao_kedro.objectives import get_requirements, make_objective, objective_names
from rao_kedro.objectives.pairwise import AllPairs

PAIRWISE = [name for name in objective_names() if get_requirements(name).reads == "pairs"]
exact = {"rtol": 1e-9, "atol": 1e-9}


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("name", PAIRWISE)
def test_nll_weight_adds_the_mean_nll_per_token_of_the_chosen_response(name):
    batch = random_batch(3)
    plain, ours = (make_objective(name, nll_weight=weight)(batch).loss for weight in (0.0, 0.5))
    nll = (-batch.policy[:, 0] / batch.lengths[:, 0]).mean()
    torch.testing.assert_close(ours, plain + 0.5 * nll, **exact)
    assert bool((gradient(nll, batch.policy)[:, 1:] == 0).all())


@pytest.mark.parametrize("name", PAIRWISE)
def test_wpo_weighs_a_pair_by_how_likely_both_its_responses_are_and_no_gradient_flows_through_the_weight(name):
    batch = random_batch(4)
    objective = make_objective(name, wpo=True)
    mean_logps = (batch.policy / batch.lengths)[:, :2].detach()
    weights = [math.exp(float(chosen) + float(rejected)) for chosen, rejected in mean_logps]
    expected = (torch.tensor(weights, dtype=torch.float64) * objective.pair_losses(batch)).mean()
    loss = objective(batch).loss
    torch.testing.assert_close(loss, expected, **exact)
    torch.testing.assert_close(gradient(loss, batch.policy), gradient(expected, batch.policy), **exact)


def test_every_pair_of_a_group_has_the_terms():
    batch = random_batch(5, responses=2)
    batch = replace(batch, mask=torch.ones_like(batch.mask), ratings=torch.tensor([[1.0, 0.0]]).expand(3, 2))
    objective = make_objective("dpo", nll_weight=0.3, wpo=True)
    torch.testing.assert_close(AllPairs(objective)(batch).loss, objective(batch).loss, **exact)


@pytest.mark.parametrize("name", ["dpo", "simpo", "dpop", "dpo_shift", "cal_dpo"])
def test_label_smoothing_is_the_expected_loss_of_a_label_that_may_be_flipped(name):
    batch = random_batch(6)
    objective = make_objective(name, label_smoothing=0.2)
    logits = objective.logits(batch)
    flipped = torch.log1p(logits.exp()) - torch.log1p((-logits).exp())  # less the loss of the label as it is
    torch.testing.assert_close(objective(batch).loss, make_objective(name)(batch).loss + 0.2 * flipped.mean(), **exact)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("simpo", {"label_smoothing": 0.5}, "label_smoothing must be in"),
        ("kto", {"nll_weight": -1.0}, "nll_weight must be a finite number of at least 0"),
        ("orpo", {"wpo": 2}, "wpo must be one of"),
        ("ipo", {"label_smoothing": 0.1}, "has no parameter label_smoothing"),
        ("rao", {"loss": "absolute"}, "loss must be one of"),
        ("rao", {"loss": "huber"}, "huber_threshold must be a positive number"),
        ("rao", {"huber_threshold": 5.0}, "huber_threshold belongs to loss huber"),
        ("dpo", {"logp_reduction": "max"}, "logp_reduction must be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        make_objective(name, **parameters)


def test_a_loss_with_other_terms_has_no_known_value_at_the_reference():
    assert make_objective("dpo", label_smoothing=0.1).expected_initial_loss() == math.log(2)
    assert make_objective("dpo", wpo=True).expected_initial_loss() is None
    assert make_objective("dpo", nll_weight=1.0).expected_initial_loss() is None


def test_hubers_loss_is_the_square_below_the_threshold_and_its_tangent_beyond():
    """Targets are 1 nat from the log-ratio, and in one response 1000: it pulls as one at 3 nats would."""
    beta, log_z0 = 0.5, 2.0
    batch = random_batch(7, responses=2)
    batch = replace(batch, mask=torch.ones_like(batch.mask))
    distances = torch.tensor([[1.0, -1.0], [1.0, 1000.0], [-1.0, 1.0]], dtype=torch.float64)
    rewards = beta * (batch.log_ratio().detach() + log_z0 + distances)
    rao = {"beta": beta, "log_z0": log_z0, "prompt_term": "none"}
    batch = replace(batch, rewards=rewards)
    near, far = (make_objective("rao", **rao, loss="huber", huber_threshold=nats)(batch).loss for nats in (3.0, 1e6))
    torch.testing.assert_close(far, make_objective("rao", **rao)(batch).loss, **exact)
    at_threshold = replace(batch, rewards=rewards.clone())
    at_threshold.rewards[1, 1] = beta * (batch.log_ratio().detach()[1, 1] + log_z0 + 3.0)
    expected = gradient(make_objective("rao", **rao)(at_threshold).loss, batch.policy)
    torch.testing.assert_close(gradient(near, batch.policy), expected, **exact)
    d, delta = beta * 1000.0, beta * 3.0
    assert near.item() == pytest.approx((5 * beta**2 + delta * (2 * d - delta)) / 6)
