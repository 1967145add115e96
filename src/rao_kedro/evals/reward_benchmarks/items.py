"""A prompt of a reward benchmark, and reading its fields from a row in the authors' schema."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rao_kedro.data.messages import read_text
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow

Row = Mapping[str, Any]

ALL = "all"


@dataclass(frozen=True)
class BenchmarkItem:
    """A prompt of a benchmark, with the responses to prefer and the others.

    Attributes:
        item_id: The benchmark's own name for it, unique within its subset.
        section: The part that the benchmark reports separately: a section, domain, category or goal.
        subset: A part of the section; "all" where it has none.
        messages: The dialogue up to the last message of the user.
        chosen: Responses to prefer.
        rejected: Responses that a chosen one should beat.
    """

    item_id: str
    section: str
    subset: str
    messages: tuple[dict[str, str], ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]


def require_known(name: str, value: str, known: Iterable[str]) -> None:
    """Refuse a row whose field holds an unknown value."""
    if value not in known:
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} {value!r} is none of {', '.join(known)}")


def get_value(row: Any, name: str) -> Any:
    """Return a field of a row, or of an object in it."""
    if not isinstance(row, Mapping) or row.get(name) is None:
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no column {name}")
    return row[name]


def get_text(row: Any, name: str) -> str:
    """Return a field that holds a text."""
    return read_text(get_value(row, name), name)


def get_list(row: Row, name: str) -> list[Any]:
    """Return a field that holds a list with at least one element."""
    value = get_value(row, name)
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is not a list")
    if not (values := list(value)):
        raise UnusableRow(QuarantineReason.TOO_FEW_RESPONSES, f"{name} is empty")
    return values


def get_texts(row: Row, name: str) -> tuple[str, ...]:
    """Return a field that holds a list of texts."""
    return tuple(read_text(text, name) for text in get_list(row, name))


def get_messages(row: Row, name: str) -> tuple[dict[str, str], ...]:
    """Return a dialogue that ends with the user's message; a text is one message of the user."""
    value = get_value(row, name)
    chat = [{"role": "user", "content": read_text(value, name)}] if isinstance(value, str) else get_list(row, name)
    messages = tuple({key: get_text(message, key) for key in ("role", "content")} for message in chat)
    if messages[-1]["role"] != "user":
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} does not end with a message of the user")
    if not messages[-1]["content"].strip():
        raise UnusableRow(QuarantineReason.EMPTY_PROMPT, "the prompt has no text")
    return messages
