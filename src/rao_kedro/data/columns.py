"""Names of columns that formats know, and the parameter `columns`, which gives a row's own columns these names."""

from collections.abc import Mapping
from typing import Any

from rao_kedro.data.fields import Row, look_up, replace_nan
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.ratings import RATING_NAMES, is_rank
from rao_kedro.data.readers import RawRow

# Each tuple is in the order in which its names are searched.
PROMPTS = ("prompt", "messages", "conversations", "instruction", "question", "query", "input")
RESPONSES = ("responses", "completions", "generations", "all_generated_responses", "answers", "candidates_completions")
RATINGS = ("ratings", "scores", "rating", "score", "rewards", "all_rm_scores", "ranks", "ranking", "rank")
RANKS = {"ratings": "ranks", "rating": "rank", "chosen_rating": "chosen_rank", "rejected_rating": "rejected_rank"}
SINGLE = ("response", "completion", "output", "answer")
TEXT_KEYS = ("text", "response", "content", "output", "answer", "completion")  # of a response that is an object


def read_content(row: RawRow, columns: Mapping[Any, str | None]) -> Row:
    """Return what a row holds, with its columns named as formats know them; see `rename_columns`.

    Raises:
        UnusableRow: The row could not be read, or `columns` does not fit it.
    """
    if isinstance(row.content, str):
        known = row.problem == RawRow.problem
        raise UnusableRow(QuarantineReason.INVALID_JSON if known else QuarantineReason.UNREADABLE, row.problem)
    content: Row = replace_nan(row.content)
    return rename_columns(content, columns) if columns else content


def rename_columns(row: Row, columns: Mapping[Any, str | None]) -> Row:
    """Return a row with its own columns under the names that formats know.

    Args:
        row: The row.
        columns: The row's own column, which may be dotted, by the name that formats know; null for a column to ignore.

    Raises:
        UnusableRow: The row has no such column, or `columns` maps ranks (the lowest is best) to ratings.
    """
    renamed = {name: value for name, value in row.items() if name not in columns.values()}
    for known, own in columns.items():
        renamed.pop(known, None)
        if own is None:
            continue
        if own.split(".")[0] not in row and own not in row:
            detail = f"no column {own}, which `columns` maps to {known}; the row has {', '.join(map(str, row))}"
            raise UnusableRow(QuarantineReason.MISSING_COLUMN, detail)
        if known in RANKS and is_rank(own):
            detail = f"`columns` maps ranks ({own}) to {known}, whose highest is best: write `{RANKS[known]}: {own}`"
            raise UnusableRow(QuarantineReason.BAD_RATING, detail)
        renamed[known] = look_up(row, own)
    named = {known for known, own in columns.items() if own is not None}
    if named & {*RATINGS, *RATING_NAMES}:  # `columns` says which ratings to read: ignore the row's others
        renamed = {name: v for name, v in renamed.items() if name in named or name not in (*RATINGS, *RATING_NAMES)}
    return renamed
