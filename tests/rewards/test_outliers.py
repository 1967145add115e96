"""Rewards that lie implausibly far from all others are told, and plain ones are not."""

from statistics import fmean

import numpy as np
import pytest

from rao_kedro.objectives import make_objective
from rao_kedro.rewards.outliers import outlier_remark, robust_moments

RNG = np.random.default_rng(0)


def by_group(rewards, k=4):
    return {f"g{i}": list(map(float, rewards[i * k : (i + 1) * k])) for i in range(len(rewards) // k)}


def remark_on(rewards, objective):
    return outlier_remark([*rewards], [*rewards.values()], objective)


AUTO = make_objective("rao", beta=0.05, log_z0="auto")


@pytest.mark.parametrize(
    "rewards",
    [
        RNG.normal(0.3, 0.85, 40_000),
        RNG.laplace(0, 2, 40_000),
        RNG.integers(1, 11, 400),
        np.r_[np.ones(990), np.zeros(10)],  # rules that hardly ever fail
        np.tile([1.0, 0.0], 36),
        RNG.beta(5, 0.3, 4000),  # a classifier that is sure of most
        np.ones(12),
    ],
    ids=["normal", "laplace", "ratings", "rarely 0", "binary", "saturated", "constant"],
)
def test_plain_rewards_are_not_remarked_on(rewards):
    assert remark_on(by_group(rewards), AUTO) is None


def test_the_one_rating_that_decides_log_z0_is_named_with_what_it_does_and_what_helps():
    """Of 72 ratings of 1 to 5, one is 1e6: `auto` solves to 1e6 / 72 / 0.05 nats more than without it."""
    rewards = by_group(np.tile([1.0, 2.0, 4.0, 5.0], 18))
    rewards["g7"][2] = 1e6
    remark = remark_on(rewards, AUTO)
    assert remark is not None
    assert "1 of 72 training rewards lie more than 20 robust standard deviations" in remark
    assert "in 1 of 18 groups, and dominate the targets: g7 (1e+06)." in remark
    assert "With beta 0.05 the furthest is 2e+07 nats from the median." in remark
    assert (
        f"log_z0: auto solves to {AUTO.solve_log_z0(list(rewards.values())):.6g} nats, and to 60 without these groups."
        in remark
    )
    assert "set reward_modeling.clip: 5 keeps" in remark
    fixed = remark_on(rewards, make_objective("rao", beta=0.05, log_z0=60.0))
    assert fixed is not None and "auto" not in fixed
    without_beta = remark_on(rewards, make_objective("simpo"))
    assert without_beta is not None and "nats" not in without_beta


@pytest.mark.parametrize("plain", [np.tile([0.0, 1.0], 36), RNG.normal(size=72), np.ones(72)])
def test_outliers_are_found_among_few_distinct_values_too(plain):
    rewards = plain.astype(float).copy()
    rewards[:2] = 1e6, -50.0
    remark = remark_on(by_group(rewards), make_objective("dro"))
    assert remark is not None and "g0 (1e+06)" in remark


def test_robust_moments_are_those_of_the_normal_distribution_and_do_not_follow_outliers():
    values = RNG.normal(3, 2, 20_000)
    assert robust_moments(values) == pytest.approx((3, 2), abs=0.05)
    values[:200] = 1e9
    assert robust_moments(values) == pytest.approx((3, 2), abs=0.1) and fmean(values) > 1e6
