"""Tables of downstream results: items, and the scores that are made of them. Knows nothing about tasks and models."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rao_kedro.statistics import mean_interval

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
    "unscored_reason",
]
RESAMPLES = 1000  # of metrics that are no means


class DownstreamResults(NamedTuple):
    """Scores of tasks, and what they are made of.

    Attributes:
        scores: Table of `DownstreamScoreTable`, without the method.
        samples: Table of `DownstreamSampleTable`, without the method.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame


class Score(NamedTuple):
    """A row of `DownstreamScoreTable`; see there."""

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
    """Return how far a mean is known; values from 0 to 1 are taken for shares of an item."""
    stderr = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    bounds = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else None
    found = mean_interval(values, bounds, seed=0)
    return Spread(stderr, found.low, found.high)


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
