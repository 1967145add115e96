"""Rows that cannot be used: where they stood, why, and what they said. Pandas only."""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import pandas as pd

COLUMNS = ["source", "reason", "detail", "row"]
MAX_ROW_CHARACTERS = 2000


class QuarantineReason(StrEnum):
    """Why a row, or some responses of a row, cannot be used."""

    INVALID_JSON = "invalid_json"
    MISSING_COLUMN = "missing_column"
    BAD_TYPE = "bad_type"
    DIFFERENT_PROMPTS = "different_prompts"
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_RESPONSE = "empty_response"
    UNRATED_RESPONSE = "unrated_response"
    NON_FINITE_RATING = "non_finite_rating"
    IDENTICAL_RESPONSES = "identical_responses"
    TOO_FEW_RESPONSES = "too_few_responses"
    EQUAL_RATINGS = "equal_ratings"
    DUPLICATE_ROW = "duplicate_row"
    HELD_OUT_PROMPT_IN_TRAIN = "held_out_prompt_in_train"
    TEST_PROMPT_IN_VALIDATION = "test_prompt_in_validation"
    PROMPT_TOO_LONG = "prompt_too_long"
    RESPONSE_TOO_LONG = "response_too_long"
    PROMPT_NOT_T0 = "prompt_not_t0"
    TEMPLATE_ERROR = "template_error"
    UNSCORED_RESPONSE = "unscored_response"


class UnusableRow(Exception):
    """A row that cannot become a prompt group."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def quarantined_row(source: str, reason: QuarantineReason, detail: str, row: object) -> dict[str, str]:
    """Return one record of the table of `QuarantinedRows`; the row itself is cut at 2000 characters."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=_plain)
    return {"source": source, "reason": str(reason), "detail": detail, "row": text[:MAX_ROW_CHARACTERS]}


def quarantined_table(records: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Return records as a table of `QuarantinedRows`, also where there are none."""
    return pd.DataFrame(records, columns=COLUMNS, dtype="str")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
