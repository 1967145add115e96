"""Rows that cannot be used, with their source, the reason and their beginning: a table that is written row by row."""

import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import pandas as pd

from rao_kedro.data.arrow_schemas import QUARANTINE
from rao_kedro.data.readers import RawRow
from rao_kedro.data.table_files import TableWriter, read_rows
from rao_kedro.errors import DataError

MAX_ROW_CHARACTERS = 2000
MAX_DETAIL_CHARACTERS = 600
KEPT = "responses dropped, the group is kept"  # in the detail of a row that lost a part: it does not explain an absence


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
    UNDESIRABLE = "undesirable"
    ORPHAN_MESSAGE = "orphan_message"
    TEMPLATE_CHANGES_TURN = "template_changes_turn"
    FIRST_TURN_TOO_LONG = "first_turn_too_long"


class UnusableRow(Exception):
    """A row that cannot become a prompt group or a conversation."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[QuarantineReason, str]]:
        return type(self), (self.reason, self.detail)


class ReasonCounts:
    """How many rows were quarantined for each reason, with the first example of each.

    Attributes:
        counts: All rows by reason.
    """

    def __init__(self, records: Iterable[Mapping[str, str]] = ()) -> None:
        """Count records of `QuarantineTable`."""
        self.counts: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()  # rows of which nothing is kept
        self._examples: dict[str, str] = {}
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, str]) -> None:
        """Count one more record."""
        reason = record["reason"]
        self.counts[reason] += 1
        if KEPT not in record["detail"]:
            self._lost[reason] += 1
            self._examples.setdefault(reason, f"{record['source']}: {record['detail']}")

    def most_frequent(self, n: int = 3) -> str:
        """Return a sentence with the `n` most frequent reasons for which whole rows were lost, with an example each."""
        if not self._lost:
            return "there were no rows"
        reasons = [
            f"{reason} {count} times, for example {self._examples[reason]}"
            for reason, count in self._lost.most_common(n)
        ]
        more = f"; and {len(self._lost) - n} other reasons" if len(self._lost) > n else ""
        return f"quarantined rows: {'; '.join(reasons)}{more}"


class QuarantineFile(TableWriter):
    """Writes a table of `QuarantineTable` row by row, and counts the reasons.

    Attributes:
        reasons: The counts.
    """

    def __init__(self, path: Path) -> None:
        """Prepare a table; see `TableWriter`."""
        super().__init__(path, QUARANTINE)
        self.reasons = ReasonCounts()

    def add(self, source: str, reason: QuarantineReason, detail: str, row: object) -> None:
        """Quarantine a row."""
        self.write(quarantined_row(source, reason, detail, row))

    @contextmanager
    def instead_of(self, row: RawRow) -> Iterator[None]:
        """Quarantine a row if anything about it fails in the block, so that no row ends a run.

        Raises:
            DataError, OSError, MemoryError: A table cannot be written, which is not a fault of the row.
        """
        try:
            yield
        except UnusableRow as problem:
            self.add(row.source, problem.reason, problem.detail, row.content)
        except (MemoryError, OSError, DataError):
            raise
        except Exception as error:
            self.add(row.source, QuarantineReason.UNREADABLE, f"{type(error).__name__}: {error}", row.content)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a record of `quarantined_row`."""
        self.reasons.add(row)
        super().write(row)

    def write_table(self, path: Path) -> Self:
        """Add the rows of another table of `QuarantineTable`."""
        self.write_rows(read_rows(path, QUARANTINE.names))
        return self


class NoGroupsLeftError(DataError):
    """Every row of a split, or of a benchmark, was quarantined. Names the most frequent reasons, each with an example.

    Attributes:
        reasons: The number of quarantined rows by reason.
        quarantined: Table of `QuarantineTable`, or the path of one, which a hook of the pipelines saves although the
            node failed.
    """

    def __init__(self, what: str, reasons: ReasonCounts, quarantined: pd.DataFrame | Path) -> None:
        """Compose the message.

        Args:
            what: The beginning of the message: what is empty.
            reasons: Of the quarantined rows.
            quarantined: All quarantined rows, or the path of their table.
        """
        super().__init__(f"{what}; {reasons.most_frequent()}")
        self.reasons, self.quarantined = reasons, quarantined


def quarantined_row(source: str, reason: QuarantineReason, detail: str, row: object) -> dict[str, str]:
    """Return one record of the table of `QuarantineTable`; the row is cut at 2000 characters."""
    texts = {"source": source, "reason": str(reason), "detail": detail[:MAX_DETAIL_CHARACTERS], "row": _written(row)}
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in texts.items()}


def quarantined_table(records: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Return records as a table of `QuarantineTable`; the table may be empty."""
    return pd.DataFrame(records, columns=QUARANTINE.names, dtype="str")


def _written(row: object) -> str:
    """Return the beginning of a row as text; never fails."""
    try:
        text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys that JSON does not allow, circular or too deep objects
        text = reprlib.repr(row)
    return text[:MAX_ROW_CHARACTERS]


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
