"""Tables of downstream results: items, and the scores computed from them. Knows nothing about tasks and models."""

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
RESAMPLES = 1000  # of the bootstrap of metrics that are not means


class DownstreamResults(NamedTuple):
    """Scores of tasks, and the items from which they are computed.

    Attributes:
        scores: Table of `DownstreamScoreTable`, without the method.
        samples: Table of `DownstreamSampleTable`, without the method.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame


class Score(NamedTuple):
    """A row of `DownstreamScoreTable`, which describes the fields."""

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
    """The uncertainty of a value.

    Attributes:
        stderr: The standard error.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
    """

    stderr: float
    low: float
    high: float


UNKNOWN = Spread(math.nan, math.nan, math.nan)


def spread_of_mean(values: Sequence[float]) -> Spread:
    """Return the uncertainty of a mean; if all values are in [0, 1], the interval is, too."""
    stderr = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    bounds = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else None
    found = mean_interval(values, bounds, seed=0)
    return Spread(stderr, found.low, found.high)


def spread_of(aggregate: Callable[[Sequence[Any]], float], items: Sequence[Any]) -> Spread:
    """Return the uncertainty of a metric that is not a mean, by a percentile bootstrap over items.

    Args:
        aggregate: Computes the metric from the items' values.
        items: One value per item, of any type.
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
    """Return the share of responses that were cut at their token limit; NaN if there are no responses."""
    reasons = samples["finish_reason"].dropna()
    return float((reasons == "length").mean()) if len(reasons) else math.nan


def tables(scores: Sequence[Score], samples: pd.DataFrame) -> DownstreamResults:
    """Return the tables. Their columns have the same types even if no item has a value."""
    samples = samples[SAMPLE_COLUMNS].astype({"value": float, "correct": bool, "finish_reason": object})
    return DownstreamResults(pd.DataFrame(scores, columns=Score._fields), samples)
