"""Rows that cannot be used, with their source, the reason and their beginning. Imports pandas only."""

import json
import reprlib
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any

import pandas as pd

from rao_kedro.errors import DataError

COLUMNS = ["source", "reason", "detail", "row"]
MAX_ROW_CHARACTERS = 2000
MAX_DETAIL_CHARACTERS = 600


class QuarantineReason(StrEnum):
    """Why a row, or some responses of a row, cannot be used."""

    INVALID_JSON = "invalid_json"
    UNREADABLE = "unreadable"
    UNKNOWN_FORMAT = "unknown_format"
    MISSING_COLUMN = "missing_column"
    BAD_TYPE = "bad_type"
    INVALID_TEXT = "invalid_text"
    NOT_TEXT = "not_text"
    TOOL_CALL = "tool_call"
    BAD_DIALOGUE = "bad_dialogue"
    DIFFERENT_PROMPTS = "different_prompts"
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_RESPONSE = "empty_response"
    UNRATED_RESPONSE = "unrated_response"
    UNPAIRED_RESPONSE = "unpaired_response"
    BAD_RATING = "bad_rating"
    CONTRADICTORY_RATINGS = "contradictory_ratings"
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
    EMPTY_CONVERSATION = "empty_conversation"
    EMPTY_TURN = "empty_turn"
    REPEATED_ROLE = "repeated_role"
    NO_ASSISTANT_TURN = "no_assistant_turn"
    ORPHAN_MESSAGE = "orphan_message"
    TEMPLATE_CHANGES_TURN = "template_changes_turn"
    FIRST_TURN_TOO_LONG = "first_turn_too_long"


class UnusableRow(Exception):
    """A row that cannot become a prompt group or a conversation."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class NoGroupsLeftError(DataError):
    """Every row of a split, or of a benchmark, was quarantined. Names the most frequent reasons, each with an example.

    Attributes:
        quarantined: Table of `QuarantineTable`, which a hook of the pipelines saves although the node failed.
    """

    def __init__(self, what: str, quarantined: pd.DataFrame, kept: Collection[str] = ()) -> None:
        """Compose the message.

        Args:
            what: The beginning of the message: what is empty.
            quarantined: All quarantined rows.
            kept: Sources of rows that still became groups; they do not explain why a split is empty.
        """
        explaining = quarantined[~quarantined["source"].isin(kept)]
        super().__init__(f"{what}; {most_frequent_reasons(explaining)}")
        self.what, self.quarantined, self.kept = what, quarantined, kept

    def with_earlier(self, quarantined: pd.DataFrame) -> "NoGroupsLeftError":
        """Return the error with the rows that an earlier step quarantined."""
        return NoGroupsLeftError(self.what, pd.concat([quarantined, self.quarantined], ignore_index=True), self.kept)


def most_frequent_reasons(quarantined: pd.DataFrame, n: int = 3) -> str:
    """Return a sentence with the `n` most frequent reasons in a table of `QuarantineTable`, each with an example."""
    if quarantined.empty:
        return "there were no rows"
    counts = quarantined["reason"].value_counts()
    first = quarantined.drop_duplicates("reason").set_index("reason")
    reasons = [
        f"{reason} {count} times, for example {example.source}: {example.detail}"
        for reason, count in counts.head(n).items()
        for example in [first.loc[str(reason)]]
    ]
    more = f"; and {len(counts) - n} other reasons" if len(counts) > n else ""
    return f"quarantined rows: {'; '.join(reasons)}{more}"


def quarantined_row(source: str, reason: QuarantineReason, detail: str, row: object) -> dict[str, str]:
    """Return one record of the table of `QuarantineTable`; the row is cut at 2000 characters."""
    texts = {"source": source, "reason": str(reason), "detail": detail[:MAX_DETAIL_CHARACTERS], "row": _written(row)}
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()}


def quarantined_table(records: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Return records as a table of `QuarantineTable`; the table may be empty."""
    return pd.DataFrame(records, columns=COLUMNS, dtype="str")


def _written(row: object) -> str:
    """Return the beginning of a row as text; never fails."""
    try:
        text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys that JSON does not allow, circular or too deep objects
        text = reprlib.repr(row)
    return text[:MAX_ROW_CHARACTERS]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
