"""Metrics of downstream tasks, with the value of each item if they are means over items."""

import numpy as np
import pandas as pd

from rao_kedro.evals.benchmark import PERCENT, Metric
from rao_kedro.statistics import Interval


def downstream_metrics(scores: pd.DataFrame, samples: pd.DataFrame) -> dict[tuple[str, str], Metric]:
    """Return the metrics of one run, by task and metric; shares are in percent.

    A metric that is not a mean over items keeps the interval of its row.

    Args:
        scores: Table of `DownstreamScoreTable` of the run.
        samples: Table of `DownstreamSampleTable` of the run.
    """
    whole = samples["task"].str.split("::").str[0]
    metrics = {}
    for row in scores.to_dict("records"):
        task, name, percent = str(row["task"]), str(row["metric"]), 100.0 if row["is_share"] else 1.0
        items = samples[((samples["task"] == task) | (whole == task)) & (samples["metric"] == name)]
        values, known = percent * items.set_index(["task", "item_id"])["value"], None
        if not np.isclose(values.mean(), percent * row["value"]) or values.isna().any():
            values = values[:0]
            known = Interval(percent * row["value"], percent * row["low"], percent * row["high"], row["n"])
        metrics[task, name] = Metric(
            values,
            PERCENT if row["is_share"] else None,
            known,
            unscored=int(row["unparsed"]),
            chance=100 * row["chance"],
        )
    return metrics
