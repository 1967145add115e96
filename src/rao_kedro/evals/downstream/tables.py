"""Schemas of models' scores and outputs on downstream tasks."""

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import FINISH_REASONS, Table


class DownstreamScoreTable(Table):
    """One row per downstream task (`task::subject` of a group's parts) and metric, with a 95 % interval.

    Tasks of lm-evaluation-harness itself are `lm_eval/...`, and their metrics have its names. `is_share` says whether
    the value is a share of items, which reports show in percent. `unparsed` counts outputs without an answer, which are
    wrong; `cut` is the share of responses that were cut at their token limit, and is missing if there are no responses.
    Chance is missing if it is not known, an interval if there is none, and `num_fewshot` if parts of a group differ.
    """

    method: Series[str]
    task: Series[str]
    metric: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    is_share: Series[bool]
    stderr: Series[float] = pa.Field(nullable=True)
    low: Series[float] = pa.Field(nullable=True)
    high: Series[float] = pa.Field(nullable=True)
    n: Series[int] = pa.Field(ge=1)
    unparsed: Series[int] = pa.Field(ge=0)
    chance: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    cut: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    num_fewshot: Series[float] = pa.Field(nullable=True, ge=0)
    version: Series[str]

    @pa.dataframe_check(error="shares are between 0 and 1")
    def _shares(cls, table: pd.DataFrame) -> pd.Series:
        return ~table["is_share"].astype(bool) | table["value"].between(0, 1)


class DownstreamSampleTable(Table):
    """One row per item of a downstream task and metric.

    `output` is the whole response, or the log-probs of the choices as JSON. `finish_reason` is missing if there is no
    response, `extracted` if the output has no answer, and `value` if the metric is not a mean over items.
    `unscored_reason` says why a server gave no output, which counts as wrong.
    """

    method: Series[str]
    task: Series[str]
    metric: Series[str]
    item_id: Series[str]
    prompt: Series[str]
    output: Series[str]
    finish_reason: Series[str] = pa.Field(nullable=True, isin=FINISH_REASONS)
    extracted: Series[str] = pa.Field(nullable=True)
    gold: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    correct: Series[bool]
    unscored_reason: Series[str]
