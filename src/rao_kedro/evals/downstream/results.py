"""Tables of downstream results: items, and the scores that are made of them. Knows nothing about tasks and models."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

SAMPLE_COLUMNS = [
    "task",
    "metric",
    "item_id",
    "prompt",
    "output",
    "finish_reason",
    "extracted",
    "gold",
    "value",
    "correct",
]
RESAMPLES = 1000  # of metrics that are no means


class DownstreamResults(NamedTuple):
    """Scores of tasks, and what they are made of.

    Attributes:
        scores: Table of `DownstreamScores`, without the method.
        samples: Table of `DownstreamSamples`, without the method.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame


class Score(NamedTuple):
    """A row of `DownstreamScores`; see there."""

    task: str
    metric: str
    value: float
    is_share: bool
    stderr: float
    low: float
    high: float
    n: int
    unparsed: int
    chance: float
    cut: float
    num_fewshot: float
    version: str


class Spread(NamedTuple):
    """How far a value is known.

    Attributes:
        stderr: Its standard error.
        low: Of its 95 % interval.
        high: Of its 95 % interval.
    """

    stderr: float
    low: float
    high: float


UNKNOWN = Spread(math.nan, math.nan, math.nan)


def spread_of_mean(values: Sequence[float]) -> Spread:
    """Return how far a mean is known: Wilson's interval of a share, else Student's; none of equal values."""
    from scipy.stats import binomtest, t

    n = len(values)
    stderr = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    if set(values) <= {0.0, 1.0}:
        interval = binomtest(int(sum(values)), n).proportion_ci(method="wilson")
        return Spread(stderr, float(interval.low), float(interval.high))
    if not stderr > 0:
        return Spread(stderr, math.nan, math.nan)
    low, high = t.interval(0.95, n - 1, loc=np.mean(values), scale=stderr)
    return Spread(stderr, float(low), float(high))


def spread_of(aggregate: Callable[[Sequence[Any]], float], items: Sequence[Any]) -> Spread:
    """Return how far a metric that is no mean is known: a percentile bootstrap over items.

    Args:
        aggregate: Makes the metric of what each item gives.
        items: What each item gives: any values.
    """
    from scipy.stats import bootstrap

    if len(items) < 2:
        return UNKNOWN
    found = bootstrap(
        (np.arange(len(items)),),
        lambda chosen: aggregate([items[i] for i in chosen]),
        vectorized=False,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=0,
    )
    return Spread(float(found.standard_error), *map(float, found.confidence_interval))


def share_cut(samples: pd.DataFrame) -> float:
    """Return the share of responses that were cut at their token limit; NaN where none was written."""
    reasons = samples["finish_reason"].dropna()
    return float((reasons == "length").mean()) if len(reasons) else math.nan


def tables(scores: Sequence[Score], samples: pd.DataFrame) -> DownstreamResults:
    """Return the tables, whose columns have their types also where no item has a value."""
    samples = samples[SAMPLE_COLUMNS].astype({"value": float, "correct": bool, "finish_reason": object})
    return DownstreamResults(pd.DataFrame(scores, columns=Score._fields), samples)
