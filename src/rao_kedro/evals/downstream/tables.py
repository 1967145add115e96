"""Schemas of models' scores and outputs on downstream tasks."""

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import FINISH_REASONS, Table


class DownstreamScoreTable(Table):
    """One row per downstream task and metric, with a 95 % interval.

    The part of a group is `group::part`, such as `mmlu::anatomy`. Tasks that belong to lm-evaluation-harness are
    `lm_eval/...`, and their metrics have the harness's names. `is_share` says whether the value is a share of items,
    which reports show in percent. `unparsed` counts responses without an answer, which count as wrong. `cut` is the
    share of responses that were cut at their token limit; it is missing where none was written. `chance` is missing
    where it is unknown, and `num_fewshot` where the parts of a group differ in it.
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

    `output` is the whole response, or the log-probs of the choices as JSON. `finish_reason` is missing where nothing
    was written, `extracted` where the response holds no answer, and `value` where the metric is no mean over items.
    `unscored_reason` says why a server gave no response; the item counts as wrong.
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
