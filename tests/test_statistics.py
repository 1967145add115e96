"""Intervals and verdicts by what they promise: coverage and type I error, exactly where few values are possible.

With few possible values every sample can be listed: coverage is the sum of the probabilities of those whose interval
holds the true mean, without simulation.
"""

from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, multinomial, ttest_1samp, ttest_ind

from rao_kedro.config.run_names import runs_by_method
from rao_kedro.errors import DataError
from rao_kedro.statistics import (
    MIN_T_N,
    MIN_T_VARIED,
    MIN_VERDICT_N,
    Interval,
    difference_over_seeds,
    interval_over_seeds,
    mean_interval,
    mean_over_runs,
    verdict,
)

SHARE, DIFFERENCE, GRADES = (0, 1), (-1, 1), (1, 10)
# Name, bounds, possible values, their probabilities, and the numbers of values that are tried.
BOUNDED = [
    ("rare", SHARE, [0, 1], [0.97, 0.03], [2, 5, 10, 20, 50, 100]),
    ("frequent", SHARE, [0, 1], [0.05, 0.95], [2, 5, 10, 20, 50, 100]),
    ("even", SHARE, [0, 1], [0.5, 0.5], [2, 5, 10, 20, 50, 100]),
    ("thirds", SHARE, [0, 1 / 3, 2 / 3, 1], [0.2, 0.25, 0.3, 0.25], [2, 5, 10]),
    ("nearly solved", SHARE, [0, 1 / 2, 1], [0.03, 0.07, 0.9], [2, 5, 10, 20]),
    ("grades", GRADES, [2, 8, 9], [0.1, 0.4, 0.5], [2, 5, 10, 20]),
    ("differences", DIFFERENCE, [-0.5, 0, 0.5], [0.25, 0.5, 0.25], [2, 5, 10, 20]),
    ("few differences", DIFFERENCE, [-1, 0, 1], [0.05, 0.9, 0.05], [2, 5, 10, 20]),
    ("rare losses", DIFFERENCE, [-0.95, 0.05], [0.05, 0.95], [2, 5, 10, 20, 50, 100]),
]


def samples(values, shares, n):
    """Every sample of n values, up to order, with its probability."""
    for sample in combinations_with_replacement(range(len(values)), n):
        counts = np.bincount(sample, minlength=len(values))
        yield np.repeat(values, counts), multinomial.pmf(counts, n, shares)


@pytest.mark.parametrize("case", BOUNDED, ids=[name for name, *_ in BOUNDED])
def test_bounded_intervals_hold_the_true_mean_as_often_as_they_say_at_every_n(case):
    """Where there is no difference, a verdict is therefore wrong in at most a twentieth of the experiments."""
    _, bounds, values, shares, sizes = case
    mean = float(np.dot(values, shares))
    for n in sizes:
        found = [(mean_interval(list(sample), bounds, seed=0), p) for sample, p in samples(values, shares, n)]
        assert sum(p for interval, p in found if interval.low <= mean <= interval.high) >= 0.95, n
        assert all(interval.low < interval.high for interval, _ in found)
        if bounds == DIFFERENCE:
            wrong = sum(p for interval, p in found if verdict(interval) in ("better", "worse"))
            assert mean == pytest.approx(0) and wrong <= (0.05 if n >= MIN_VERDICT_N else 0), n


def test_no_verdict_is_wrong_too_often_on_many_discrete_differences():
    """Of 100 prompts with two responses to each side: scores are multiples of a third, the differences of a sixth."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.binomial(3, 0.6, (2, 2000, 100, 2)).mean(axis=-1) / 3
    said = [verdict(mean_interval(list(pairs), DIFFERENCE, seed=0)) for pairs in ours - theirs]
    assert np.mean([word in ("better", "worse") for word in said]) <= 0.06  # 0.05 and three standard errors
    better = [
        verdict(mean_interval(list(pairs + 0.15), DIFFERENCE, seed=0)) for pairs in (ours - theirs).clip(-1, 0.85)
    ]
    assert np.mean([word == "better" for word in better]) > 0.95  # and what there is to be found is found


@pytest.mark.parametrize("n", [2, 5, 10, 20, 50, 100])
@pytest.mark.parametrize(
    ("draw", "mean", "lowest"), [("normal", 0, 0.94), ("laplace", 0, 0.94), ("lognormal", 1, 0.86)]
)
def test_intervals_without_bounds_hold_the_true_mean(draw, mean, lowest, n):
    """Skewed values (lengths) cost a t interval coverage where there are few, and a bootstrap more: 0.79 at n = 5."""
    rng = np.random.default_rng(1)
    draws = {"normal": rng.normal, "laplace": rng.laplace, "lognormal": lambda size: rng.lognormal(-0.18, 0.6, size)}
    found = [mean_interval(values, None, seed=0) for values in draws[draw](size=(1500, n))]
    assert np.mean([interval.low <= mean <= interval.high for interval in found]) >= lowest


def test_shares_have_clopper_and_pearsons_interval():
    for successes, n in [(0, 5), (1, 20), (7, 10), (5, 5)]:
        exact = binomtest(successes, n).proportion_ci(method="exact")
        found = mean_interval([1.0] * successes + [0.0] * (n - successes), SHARE, seed=0)
        assert found == (successes / n, exact.low, exact.high, n)
        percent = mean_interval([100.0] * successes + [0.0] * (n - successes), (0, 100), seed=0)
        assert percent[1:3] == pytest.approx((100 * exact.low, 100 * exact.high))


def test_the_general_interval_goes_over_into_clopper_and_pearsons():
    """A value that is not quite 0 takes the resampling, which must end where the exact interval does."""
    exact = binomtest(3, 20).proportion_ci(method="exact")
    found = mean_interval([1.0] * 3 + [0.0] * 16 + [1e-6], SHARE, seed=0)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_equal_values_do_not_give_an_interval_without_width():
    """The rule of three: after 20 equal values what was not seen may be up to 1 - 0.025 ** (1 / 20) of the rest."""
    missed = 1 - 0.025 ** (1 / 20)
    found = mean_interval([0.5] * 20, SHARE, seed=0)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.5 * missed, 0.5 + 0.5 * missed), abs=0.005)
    assert mean_interval([8.0] * 20, GRADES, seed=0).low == pytest.approx(8 - 7 * missed, abs=0.05)
    assert (
        np.isnan(mean_interval([2.0] * 20, None, seed=0).low)
        and verdict(mean_interval([2.0] * 20, None, 0)) == "withheld"
    )


def test_what_cannot_be_told_is_nan_and_what_cannot_be_is_refused():
    assert mean_interval([], SHARE, seed=0).n == 0 and np.isnan(mean_interval([], None, seed=0).mean)
    one = mean_interval([0.4], SHARE, seed=0)
    assert one.mean == 0.4 and (one.low, one.high) == pytest.approx((0.4 * 0.025, 1 - 0.6 * 0.025), abs=0.005)
    assert mean_interval([0.4], None, seed=0).mean == 0.4 and np.isnan(mean_interval([0.4], None, seed=0).low)
    with pytest.raises(DataError, match="85 is outside 1 to 10"):
        mean_interval([3.0, 85.0], GRADES, seed=0)
    with pytest.raises(DataError, match="1 of 2 values of a mean are NaN"):
        mean_interval([0.5, np.nan], SHARE, seed=0)
    assert mean_interval([0.1 + 0.2 + 0.7 + 1e-12], SHARE, seed=0).high == 1.0  # rounding is no violation


MANY = {
    "normal": lambda rng, size: rng.normal(0.05, 0.1, size).clip(-1, 1),
    "half ties": lambda rng, size: rng.choice([-0.5, 0, 0.25, 0.5], size, p=[0.1, 0.55, 0.05, 0.3]),
    "rare among ties": lambda rng, size: rng.choice([-0.95, 0, 0.05], size, p=[0.02, 0.96, 0.02]),
    "70 to 30": lambda rng, size: rng.choice([0.05, -0.9], size, p=[0.7, 0.3]),
    "mostly small": lambda rng, size: rng.beta(0.2, 1, size),
    "wins": lambda rng, size: rng.beta(0.15, 0.5, size),
    "a tenth loses much": lambda rng, size: np.where(rng.random(size) < 0.1, -0.5, rng.normal(0.05, 0.1, size)),
}


@pytest.mark.parametrize("name", MANY)
def test_intervals_hold_the_true_mean_also_where_students_takes_over(name):
    """At 100 values, of which 30 differ from the most frequent one: the fewest that get a t interval."""
    rng = np.random.default_rng(3)
    mean = MANY[name](rng, 1_000_000).mean()
    found = [mean_interval(values, DIFFERENCE, seed=0) for values in MANY[name](rng, (600, MIN_T_N))]
    assert np.mean([interval.low <= mean <= interval.high for interval in found]) >= 0.93


def test_many_varied_values_have_students_interval_and_others_do_not():
    """Gaffke's was 2.1 times as wide for 100 differences with a standard deviation of 0.1, and 3.8 times for 0.05."""
    values = np.random.default_rng(0).normal(0.05, 0.1, MIN_T_N)
    student = ttest_1samp(values, 0).confidence_interval()
    found = mean_interval(list(values), DIFFERENCE, seed=0)
    assert found == pytest.approx((values.mean(), student.low, student.high, MIN_T_N)) and verdict(found) == "better"
    fewer = mean_interval(list(values[1:]), DIFFERENCE, seed=0)
    assert fewer.high - fewer.low > 1.5 * (found.high - found.low)
    tied = [0.0] * (MIN_T_N - MIN_T_VARIED + 1) + [*values[: MIN_T_VARIED - 1]]
    assert mean_interval(tied, DIFFERENCE, seed=0).low < ttest_1samp(tied, 0).confidence_interval().low - 0.005
    assert mean_interval([0.999] * 70 + [0.5] * 30, SHARE, seed=0).high <= 1


def test_a_verdict_is_the_paired_t_test_where_there_are_no_bounds_and_withheld_below_its_n():
    rng = np.random.default_rng(0)
    for _ in range(200):
        differences = rng.normal(0.3, 1, MIN_VERDICT_N)
        p = ttest_1samp(differences, 0).pvalue
        expected = "not distinguishable" if p >= 0.05 else "better" if differences.mean() > 0 else "worse"
        assert verdict(mean_interval(list(differences), None, seed=0)) == expected
    assert verdict(Interval(0.5, 0.4, 0.6, MIN_VERDICT_N - 1)) == "withheld"
    assert verdict(Interval(-0.5, -0.6, -0.4, MIN_VERDICT_N)) == "worse"


def test_intervals_over_seeds_are_students_and_welchs():
    ours, theirs = [0.6, 0.7, 0.65], [0.5, 0.52]
    student = ttest_1samp(ours, 0).confidence_interval()
    assert interval_over_seeds(ours, None) == pytest.approx((0.65, student.low, student.high, 3))
    welch = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert difference_over_seeds(ours, theirs, None) == pytest.approx((0.14, welch.low, welch.high, 3))
    # One run that all are compared with is the same model for all, and not drawn anew.
    fixed = difference_over_seeds(ours, [0.5], None)
    assert fixed == pytest.approx((0.15, student.low - 0.5, student.high - 0.5, 3))
    for few in (interval_over_seeds([0.6], SHARE), difference_over_seeds([0.6], theirs, DIFFERENCE)):
        assert few.n == 1 and np.isnan(few.low)
    assert interval_over_seeds([0.1, 0.9], SHARE)[1:3] == (0, 1)


def test_runs_are_told_by_their_names_and_averaged_by_item():
    assert runs_by_method(["sft", "rao", "dpo", "rao_seed_1"]) == {
        "sft": ["sft"],
        "rao": ["rao", "rao_seed_1"],
        "dpo": ["dpo"],
    }
    runs = [pd.Series({"a": 1.0, "b": np.nan}), pd.Series({"b": 2.0, "a": 3.0, "c": np.nan})]
    assert mean_over_runs(runs).to_dict() == {"a": 2.0, "b": 2.0}
