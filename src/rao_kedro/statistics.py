"""Means with 95 % confidence intervals that are valid for few values, and verdicts on paired differences.

Few values with known bounds (scores, shares, win rates) get Gaffke's (2005) interval, which allows for values that were
not observed: a Bayesian bootstrap with one more value at the bound. For values of 0 and 1 it equals Clopper and
Pearson's. Many bounded values, and values without bounds (rewards, lengths, losses), get Student's t interval.
`docs/science/statistics.md` shows how these were chosen.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from rao_kedro.errors import DataError

RESAMPLES = 10_000
TAIL = 0.025  # probability outside a 95 % interval, on each side
NAN = float("nan")
Bounds = tuple[float, float]
Verdict = Literal["better", "worse", "not distinguishable", "withheld"]

# Below this number of pairs there is no verdict. Without an effect, where 10 % of the pairs lose nine times what the
# others gain, a t interval excludes 0 in 12 % of experiments with 20 pairs, in 34 % with 10, and in 57 % with 5.
MIN_VERDICT_N = 20

# From this number on, bounded values get a t interval if so many of them differ from the most frequent value. Values
# that were not observed matter little then, and Gaffke's interval is up to four times as wide.
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
        bounds: Lowest and highest possible value; None without bounds.
        seed: Seeds the resampling of bounded values.

    Returns:
        The interval. Its ends are NaN without values. Without bounds they are also NaN for a single value and for equal
        values, whose spread is unknown. Equal values with bounds have an interval that allows for unobserved values.

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
        runs: The mean of each run; NaN where a run has none.
        bounds: The interval is clipped to these.

    Returns:
        The interval; n is the number of seeds. Its ends are NaN for one seed and for equal means.
    """
    data = np.array(runs)[~np.isnan(runs)]
    low, high = np.clip(_t_ends(data, TAIL), *(bounds or (-np.inf, np.inf)))
    return Interval(float(data.mean()) if len(data) else NAN, float(low), float(high), len(data))


def difference_over_seeds(ours: Sequence[float], theirs: Sequence[float], bounds: Bounds | None) -> Interval:
    """Return the difference between the means of two methods' runs, with its interval over the training seeds of both.

    Args:
        ours: The mean of each run of a method.
        theirs: The mean of each run of the other method. A single run counts as fixed, since it is the same model in
            every comparison.
        bounds: The interval is clipped to these.

    Returns:
        Welch's interval, or Student's where the other method has one run; n is the number of `ours`.
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


def difference_bounds(bounds: Bounds | None) -> Bounds | None:
    """Return the bounds of the difference of two values with these bounds."""
    return bounds and (bounds[0] - bounds[1], bounds[1] - bounds[0])


def mean_over_runs(runs: Sequence[pd.Series]) -> pd.Series:
    """Return each item's mean over the runs that have a value for it.

    Args:
        runs: Values by item, one series per run; NaN where an item has none.
    """
    values = pd.concat([values.dropna() for values in runs])
    return values.groupby(level=list(range(values.index.nlevels)), sort=False).mean()


def verdict(difference: Interval) -> Verdict:
    """Return whether a paired difference is significant at the two-sided 5 % level: whether its interval excludes 0.

    Without bounds that is the paired t test. The verdict is "withheld" for fewer than `MIN_VERDICT_N` pairs and without
    an interval.
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
    """Return the ends: Clopper and Pearson's for values of 0 and 1, Student's for many varied ones, else Gaffke's."""
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
    for part in np.array_split(np.arange(len(values)), -(-len(values) // 1000)):  # all at once would need gigabytes
        weights = rng.standard_gamma(counts[part], (RESAMPLES, len(part)))
        total, weighted = total + weights.sum(axis=1), weighted + weights @ values[part]
    low = np.quantile((weighted + lowest * missed) / total, tail)
    return float(low), float(np.quantile((weighted + highest * missed) / total, 1 - tail))
