"""Means with bootstrap intervals; scipy does the resampling."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Interval(NamedTuple):
    """A mean over n units and its confidence interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], seed: int, confidence: float = 0.95) -> Interval:
    """Return the mean of independent values with its percentile bootstrap interval.

    Args:
        values: One number per unit (held-out prompt).
        seed: Seeds the resampling.
        confidence: Coverage of the interval.

    Returns:
        The interval: without width where all values are the same, not a number where fewer than two are there. Without
        values the mean is not a number either.
    """
    from scipy.stats import bootstrap  # a second's import, which `kedro` commands need not pay

    data = np.asarray(values, dtype=float)
    mean = float(data.mean()) if len(data) else float("nan")
    if len(data) < 2 or np.isnan(mean):
        return Interval(mean, float("nan"), float("nan"), len(data))
    if np.ptp(data) == 0:
        return Interval(mean, mean, mean, len(data))
    found = bootstrap(
        (data,), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method="percentile", rng=seed
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high), len(data))
