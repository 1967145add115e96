"""Transforms of rewards: exactness, inverses, new rewards. What they do to a table is in `test_annotation.py`."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rao_kedro.objectives import make_objective
from rao_kedro.rewards.transforms import KNOTS, apply_transforms, fit_transforms, invert_transforms, transform

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tails": lambda rng, n: rng.standard_t(1, size=n),
    "ratings": lambda rng, n: rng.integers(1, 11, n).astype(float),
    "an atom and a tail": lambda rng, n: np.where(rng.random(n) < 0.9, 3.0, rng.normal(size=n)),
    "two far clusters": lambda rng, n: rng.normal(size=n) + 1e6 * rng.integers(0, 2, n),
}


def midranks(rewards, among):
    """The oracle: the share of `among` below each reward, plus half the share that equals it."""
    return np.array([((among < r).sum() + (among == r).sum() / 2) / len(among) for r in rewards])


@pytest.mark.parametrize("shape", SHAPES)
def test_recorded_quantiles_are_within_1_percent_of_all_data_and_exact_for_few_values(shape):
    rewards = SHAPES[shape](np.random.default_rng(0), 5000)
    steps = fit_transforms(rewards, np.zeros(5000), "quantile")
    (found,) = apply_transforms(json.loads(json.dumps(steps)), [rewards], [np.zeros(5000)])
    off = np.abs(found - midranks(rewards, rewards)).max()
    assert off < (1e-12 if shape == "ratings" else 1 / (KNOTS - 1))
    assert len(steps[0]["rewards"]) <= 2 * KNOTS and len(json.dumps(steps)) < 10_000
    order = np.argsort(rewards)
    assert (np.diff(found[order]) >= 0).all() and ((np.diff(found[order]) > 0) == (np.diff(rewards[order]) > 0)).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2 * KNOTS).filter(lambda values: len(set(values)) > 1))
def test_few_rewards_have_exact_quantiles(values):
    rewards = np.array(values)
    steps = fit_transforms(rewards, np.zeros(len(rewards)), "quantile")
    np.testing.assert_allclose(apply_transforms(steps, [rewards], [[0] * len(rewards)])[0], midranks(rewards, rewards))


def test_new_rewards_get_the_steps_of_the_training_rewards():
    """Training rewards 0, 1, 2, 3 of 1 token: 0.5 a token makes -0.5 ... 2.5, their mean 1, deviation sqrt(1.25)."""
    training, ones = np.arange(4.0), np.ones(4)
    steps = fit_transforms(training, ones, "standardise", length_penalty=0.5)
    found = apply_transforms(steps, [[10.0, np.nan], [4.0]], [[4, 1], [2]])
    scale = 1.25**0.5
    assert found[0] == pytest.approx([(10 - 2 - 1) / scale, np.nan], nan_ok=True)
    assert found[1] == pytest.approx([(4 - 1 - 1) / scale])
    steps = fit_transforms(training, ones, "quantile")
    (found,) = apply_transforms(steps, [[-9.0, 0.5, np.nan, 9.0]], [[1, 1, 1, 1]])
    assert found == pytest.approx([1 / 8, 2 / 8, np.nan, 7 / 8], nan_ok=True)
    steps = fit_transforms(training, ones, "quantile_per_prompt")
    found = apply_transforms(steps, [[5.0, np.nan, 7.0], [], [1.0]], [[1, 1, 1], [], [1]])
    assert found[0] == pytest.approx([0.25, np.nan, 0.75], nan_ok=True)
    assert (found[1].size, found[2].tolist()) == (0, [0.5])
    assert apply_transforms(steps, [], []) == []


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalisation", ["none", "standardise", "quantile"])
def test_what_transforms_did_is_undone_inside_the_clip_bounds(shape, normalisation):
    rng = np.random.default_rng(1)
    rewards, lengths = SHAPES[shape](rng, 2000), rng.integers(1, 300, 2000)
    steps = fit_transforms(rewards, lengths, normalisation, clip=3.0, length_penalty=0.01)
    assert [step["name"] for step in steps] == ["length_penalty", "clip", normalisation][
        : 2 + (normalisation != "none")
    ]
    back = invert_transforms(steps, transform(steps, rewards, lengths, []), lengths)
    penalised = rewards - 0.01 * lengths
    inside = (penalised > steps[1]["low"]) & (penalised < steps[1]["high"])
    np.testing.assert_allclose(back[inside], rewards[inside], rtol=1e-6, atol=1e-6 * (1 + np.ptp(rewards[inside])))
    assert np.isnan(back[~inside]).all() and inside.mean() > 0.5


def test_a_quantile_beyond_the_training_rewards_and_one_per_prompt_have_no_inverse():
    steps = fit_transforms(np.arange(4.0), np.ones(4), "quantile")
    found = invert_transforms(steps, np.array([0.0, 1 / 8, 0.5, 7 / 8, 1.0]), np.ones(5))
    assert found == pytest.approx([np.nan, 0.0, 1.5, 3.0, np.nan], nan_ok=True)
    steps = fit_transforms(np.arange(4.0), np.ones(4), "quantile_per_prompt")
    with pytest.raises(ValueError, match=r"quantile_per_prompt has no inverse: .* column raw_rewards"):
        invert_transforms(steps, np.ones(1), np.ones(1))


@pytest.mark.parametrize(
    ("normalisation", "mean"), [("standardise", 0.0), ("quantile", 0.5), ("quantile_per_prompt", 0.5)]
)
def test_log_z0_is_solved_from_the_transformed_rewards(normalisation, mean):
    """Groups of two: the mean of a standardised reward is 0, of a quantile 1/2, so log_z0 = mean / beta."""
    raw = np.random.default_rng(0).normal(7, 3, (50, 2))
    steps = fit_transforms(raw.ravel(), np.ones(100), normalisation, length_penalty=0.1)
    rewards = apply_transforms(steps, raw, np.ones((50, 2)))
    assert make_objective("rao", beta=0.1, log_z0="auto").solve_log_z0(rewards) == pytest.approx(mean / 0.1, abs=1e-9)
