"""Schemas of MT-Bench's judgments."""

import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import Table

WINNERS = ["a", "b", "tie"]


class MTBenchJudgmentTable(Table):
    """One row per method, question and turn: the judge's score. `unscored_reason` says why a `score` is missing."""

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
    """One row per method, question and turn: whether the judge prefers the method, "a", or SFT, "b".

    `winner_swapped` was asked for with SFT's answer shown first, and calls SFT "a". The verdict is a tie where the
    orders disagree. It is missing where a judgment names no winner; `unscored_reason` says why.
    """

    method: Series[str]
    question_id: Series[int]
    category: Series[str]
    turn: Series[int] = pa.Field(ge=1, le=2)
    judge: Series[str]
    judgment: Series[str]
    judgment_swapped: Series[str]
    winner: Series[str] = pa.Field(nullable=True, isin=WINNERS)
    winner_swapped: Series[str] = pa.Field(nullable=True, isin=WINNERS)
    verdict: Series[str] = pa.Field(nullable=True, isin=WINNERS)
    unscored_reason: Series[str]
