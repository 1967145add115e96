"""Means with 95 % intervals that hold for few values, and what a paired difference allows to be said.

Few values with known bounds (scores, shares, win rates) get an interval that knows what was not seen: Gaffke's (2005),
a Bayesian bootstrap to which one more value is added at the bound. For values of 0 and 1 it is Clopper and Pearson's.
Many of them, and values without bounds (rewards, lengths, losses), get Student's t interval.
`docs/science/statistics.md` says how these were chosen.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from rao_kedro.errors import DataError

RESAMPLES = 10_000
TAIL = 0.025  # what a 95 % interval leaves out on each side
NAN = float("nan")
Bounds = tuple[float, float]
Verdict = Literal["better", "worse", "not distinguishable", "withheld"]

# Below this many pairs there is no verdict. With 20 pairs, of which 10 % lose nine times what the others gain, a t
# interval around no effect excludes 0 in 12 % of the experiments; with 10 pairs in 34 %, and with 5 in 57 %.
MIN_VERDICT_N = 20

# From here on bounded values get a t interval, if so many of them differ from the most frequent one: what was not seen
# weighs little then, and Gaffke's is up to four times as wide.
MIN_T_N, MIN_T_VARIED = 100, 30


class Interval(NamedTuple):
    """A mean over n units and its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], bounds: Bounds | None, seed: int) -> Interval:
    """Return the mean of independent values with its 95 % confidence interval.

    Args:
        values: One number per unit (held-out prompt, question, group).
        bounds: The lowest and the highest number that a value can be; None where there are none.
        seed: Seeds the resampling of bounded values.

    Returns:
        The interval. It is NaN without values, and without bounds also for a single one and for equal ones, which say
        nothing of how far they spread. Equal values with bounds have an interval as wide as what may have been missed.

    Raises:
        DataError: A value is NaN, or outside the bounds.
    """
    data = np.asarray(values, dtype=float)
    if np.isnan(data).any():
        raise DataError(f"{int(np.isnan(data).sum())} of {len(data)} values of a mean are NaN: leave them out, counted")
    if not len(data):
        return Interval(NAN, NAN, NAN, 0)
    low, high = _t_ends(data, TAIL) if bounds is None else _bounded_ends(data, bounds, TAIL, seed)
    return Interval(float(data.mean()), low, high, len(data))


def interval_over_seeds(runs: Sequence[float], bounds: Bounds | None) -> Interval:
    """Return the mean over the runs of a method, one per training seed, with Student's t interval.

    Args:
        runs: The mean of each run; NaN where it has none.
        bounds: The interval is cut off at these.

    Returns:
        The interval; n is the number of seeds. One seed, or equal means, have none.
    """
    data = np.array(runs)[~np.isnan(runs)]
    low, high = np.clip(_t_ends(data, TAIL), *(bounds or (-np.inf, np.inf)))
    return Interval(float(data.mean()) if len(data) else NAN, float(low), float(high), len(data))


def difference_over_seeds(ours: Sequence[float], theirs: Sequence[float], bounds: Bounds | None) -> Interval:
    """Return how far the means of two methods' runs lie apart, with its interval over the training seeds of both.

    Args:
        ours: The mean of each run of a method.
        theirs: Those of the method it is compared with. One run alone counts as fixed: it is the same model for all.
        bounds: The interval is cut off at these.

    Returns:
        The interval, Welch's, or Student's where the other method has one run; n is the number of `ours`.
    """
    from scipy.stats import ttest_ind

    data, others = (np.array(runs)[~np.isnan(runs)] for runs in (ours, theirs))
    if len(others) < 2 or len(data) < 2 or np.ptp(others) == 0:
        return interval_over_seeds(list(data - others.mean()) if len(others) else [], bounds)
    ends = ttest_ind(data, others, equal_var=False).confidence_interval(1 - 2 * TAIL)
    low, high = np.clip((ends.low, ends.high), *(bounds or (-np.inf, np.inf)))
    return Interval(float(data.mean() - others.mean()), float(low), float(high), len(data))


def percentile_interval(resamples: np.ndarray) -> Bounds:
    """Return the ends of the 95 % percentile interval of bootstrap draws, `[draws]`."""
    low, high = np.quantile(resamples, [TAIL, 1 - TAIL])
    return float(low), float(high)


def of_difference(bounds: Bounds | None) -> Bounds | None:
    """Return the bounds of the difference of two values with these bounds."""
    return bounds and (bounds[0] - bounds[1], bounds[1] - bounds[0])


def mean_over_runs(runs: Sequence[pd.Series]) -> pd.Series:
    """Return each item's mean over the runs that have a value for it.

    Args:
        runs: Values by item.
    """
    values = pd.concat([values.dropna() for values in runs])
    return values.groupby(level=list(range(values.index.nlevels)), sort=False).mean()


def verdict(difference: Interval) -> Verdict:
    """Return what a paired difference allows to be said: the two-sided 5 % test that its interval is the inverse of.

    Without bounds that is the paired t test. There is no verdict on fewer than `MIN_VERDICT_N` pairs, nor without an
    interval.
    """
    if difference.n < MIN_VERDICT_N or np.isnan(difference.low):
        return "withheld"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "not distinguishable"


def _t_ends(data: np.ndarray, tail: float) -> Bounds:
    from scipy.stats import t  # a second's import, which `kedro` commands need not pay

    if len(data) < 2 or np.ptp(data) == 0:
        return NAN, NAN
    half = t.isf(tail, len(data) - 1) * data.std(ddof=1) / len(data) ** 0.5
    return float(data.mean() - half), float(data.mean() + half)


def _bounded_ends(data: np.ndarray, bounds: Bounds, tail: float, seed: int) -> Bounds:
    """Return the ends: Clopper and Pearson's for 0 and 1, Student's for many varied values, or Gaffke's."""
    lowest, highest = bounds
    rounding = 1e-9 * (highest - lowest)
    if (outside := data[(data < lowest - rounding) | (data > highest + rounding)]).size:
        raise DataError(f"{outside[0]:g} is outside {lowest:g} to {highest:g}, where the values of this mean can be")
    data = data.clip(lowest, highest)
    at_the_top, n = int((data == highest).sum()), len(data)
    if at_the_top + (data == lowest).sum() == n:
        from scipy.stats import binomtest

        share = binomtest(at_the_top, n).proportion_ci(1 - 2 * tail, method="exact")
        return lowest + share.low * (highest - lowest), lowest + share.high * (highest - lowest)
    values, counts = np.unique(data, return_counts=True)
    if n >= MIN_T_N and n - counts.max() >= MIN_T_VARIED:
        low, high = np.clip(_t_ends(data, tail), lowest, highest)
        return float(low), float(high)
    rng = np.random.default_rng(seed)
    total = missed = rng.standard_exponential(RESAMPLES)
    weighted = np.zeros(RESAMPLES)
    for part in np.array_split(np.arange(len(values)), -(-len(values) // 1000)):  # all of them at once need gigabytes
        weights = rng.standard_gamma(counts[part], (RESAMPLES, len(part)))
        total, weighted = total + weights.sum(axis=1), weighted + weights @ values[part]
    low = np.quantile((weighted + lowest * missed) / total, tail)
    return float(low), float(np.quantile((weighted + highest * missed) / total, 1 - tail))
