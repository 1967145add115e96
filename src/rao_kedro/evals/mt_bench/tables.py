"""Schemas of what judges say of MT-Bench's answers."""

import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import Table


class MTBenchJudgmentTable(Table):
    """One row per question and turn of MT-Bench; `unscored_reason` says why a `score` is missing."""

    method: Series[str]
    question_id: Series[int]
    category: Series[str]
    turn: Series[int] = pa.Field(ge=1, le=2)
    judge: Series[str]
    user_prompt: Series[str]
    judgment: Series[str]
    score: Series[float] = pa.Field(nullable=True)
    unscored_reason: Series[str]


class MTBenchComparisonTable(Table):
    """One row per question and turn of MT-Bench: whether the judge prefers the method, "a", or SFT, "b".

    `winner_swapped` was asked for with SFT's answer in front, and calls that "a". The verdict is a tie where the orders
    disagree, and missing where a judgment holds none: `unscored_reason` says why.
    """

    method: Series[str]
    question_id: Series[int]
    category: Series[str]
    turn: Series[int] = pa.Field(ge=1, le=2)
    judge: Series[str]
    judgment: Series[str]
    judgment_swapped: Series[str]
    winner: Series[str] = pa.Field(nullable=True, isin=["a", "b", "tie"])
    winner_swapped: Series[str] = pa.Field(nullable=True, isin=["a", "b", "tie"])
    verdict: Series[str] = pa.Field(nullable=True, isin=["a", "b", "tie"])
    unscored_reason: Series[str]
