"""Pairwise objectives on every pair of differently rated responses, against one pair at a time."""

from dataclasses import replace
from statistics import fmean

import pytest
import torch
from batches import random_batch

from rao_kedro.objectives import get_requirements, make_objective, objective_names
from rao_kedro.objectives.pairwise import AllPairs

PAIRWISE = [name for name in objective_names() if get_requirements(name).reads == "pairs"]
RATINGS = [[2.0, 1.0, 9.0, 9.0], [3.0, 1.0, 2.0, 2.0], [4.0, 1.0, 3.0, 2.0]]  # of the first group two responses exist


def batch_with_ratings():
    return replace(random_batch(0), ratings=torch.tensor(RATINGS, dtype=torch.float64))


def pair(batch, group, chosen, rejected):
    """Return one pair as a batch of its own."""
    columns = {}
    for name in ("policy", "reference", "sampling", "lengths", "mask", "rewards", "ratings"):
        columns[name] = getattr(batch, name)[group, [chosen, rejected]][None]
    for name in ("policy_prompt", "reference_prompt", "values", "reference_rewards"):
        columns[name] = getattr(batch, name)[[group]]
    return replace(batch, **columns)


def test_these_are_the_pairwise_methods():
    assert set(PAIRWISE) == {"dpo", "ipo", "simpo", "cal_dpo", "slic_hf", "orpo", "dpop", "dpo_shift", "kto"}


@pytest.mark.parametrize("name", PAIRWISE)
def test_the_loss_is_the_mean_over_a_groups_pairs_then_over_groups(name):
    batch, objective = batch_with_ratings(), make_objective(name)
    pairs = {
        0: [(0, 1)],
        1: [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1)],
        2: [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1), (2, 3)],
    }
    expected = fmean(
        fmean(objective(pair(batch, group, *both)).loss.item() for both in of_group)
        for group, of_group in pairs.items()
    )
    out = AllPairs(objective)(batch)
    assert out.loss.item() == pytest.approx(expected, rel=1e-9)
    (gradient,) = torch.autograd.grad(out.loss, batch.policy)
    assert (gradient[0, 2:] == 0).all() and (gradient[1:] != 0).any()


@pytest.mark.parametrize("name", PAIRWISE)
def test_with_two_responses_all_pairs_are_the_one_pair(name):
    batch, objective = batch_with_ratings(), make_objective(name)
    columns = ("policy", "reference", "sampling", "lengths", "mask", "rewards", "ratings")
    two = replace(batch, **{name: getattr(batch, name)[:, :2] for name in columns})
    one, all_of_them = objective(two), AllPairs(objective)(two)
    torch.testing.assert_close(all_of_them.loss, one.loss)
    assert all_of_them.metrics.keys() == one.metrics.keys()
    gradients = [torch.autograd.grad(out.loss, batch.policy, retain_graph=True)[0] for out in (one, all_of_them)]
    torch.testing.assert_close(*gradients)


def test_a_group_of_equal_ratings_has_no_pairs():
    batch = replace(batch_with_ratings(), ratings=torch.ones(3, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="the same rating: it has no pairs"):
        AllPairs(make_objective("dpo"))(batch)


OWN = {
    "rao": ({"beta": 0.3}, 0.3),
    "dpo": ({"beta": 0.3}, 0.3),
    "ipo": ({"tau": 0.3}, 0.3),
    "simpo": ({"beta": 2.0}, None),  # per token and without a reference
    "rpo_distill": ({"beta": 0.5}, 0.5),
    "cal_dpo": ({"beta": 0.3}, 0.3),
    "dro": ({"tau": 0.3}, 0.3),
    "slic_hf": ({}, None),
    "orpo": ({}, None),
    "dpop": ({"beta": 0.3}, 0.3),
    "dpo_shift": ({"beta": 0.3}, 0.3),
    "kto": ({"beta": 0.3}, 0.3),
    "kimi_k15": ({"tau": 0.3}, 0.3),
    "rpo_partition": ({"tau": 0.3}, 0.3),
    "dgro": ({"policy_weight": 2.0, "regularization_weight": 0.6}, 0.3),
    "rloo": ({"beta": 0.3}, 0.3),
    "raft": ({}, None),
    "qrpo": ({"beta": 0.3}, 0.3),
    "rebel": ({"eta": 4.0}, 0.25),
    "ppo": ({"beta": 0.3}, 0.3),
}


@pytest.mark.parametrize("name", objective_names())
def test_every_objective_says_its_own_strength_of_the_kl_constraint(name):
    parameters, expected = OWN[name]
    assert make_objective(name, **parameters).temperature == expected
    if name in PAIRWISE:
        assert AllPairs(make_objective(name, **parameters)).temperature == expected


def test_without_a_strength_per_nat_there_is_none():
    assert make_objective("ppo", beta=0.0).temperature is None
    assert make_objective("rloo", beta=0.0).temperature is None
    assert make_objective("ipo", logp_reduction="mean").temperature is None
    assert make_objective("qrpo", logp_reduction="mean").temperature is None
