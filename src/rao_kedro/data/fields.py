"""Finds fields of a row by their names, and reads lists and objects that CSV files hold as text.

Knows nothing about what a field means.
"""

import ast
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rao_kedro.data.quarantine import QuarantineReason, UnusableRow

Row = Mapping[str, Any]


def look_up(row: Any, name: str) -> Any:
    """Return the value of a field, or None where the row has no such field.

    Args:
        row: A row, or an object inside one.
        name: A name, or a dotted one that leads through objects. A part `*` stands for every field of an object and
            gives a list: `annotations.*.Rating` is the list of all aspects' ratings.
    """
    if isinstance(row, str):
        row = parse(row)
    if not isinstance(row, Mapping):
        return None
    if name in row:
        return row[name]
    first, _, rest = name.partition(".")
    if first == "*":
        return [look_up(value, rest) if rest else value for value in row.values()]
    return look_up(row.get(first), rest) if rest else None


def replace_nan(value: Any) -> Any:
    """Return a row with NaN, which is pandas' missing value, replaced by null; NaN inside lists stays."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {name: replace_nan(one) for name, one in value.items()}
    if isinstance(value, list):
        return [replace_nan(one) if isinstance(one, Mapping | list) else one for one in value]
    return value


def find_first(row: Row, names: Iterable[str]) -> Any:
    """Return the first of the named fields that is not null, or None."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def require(row: Row, name: str) -> Any:
    """Return a field that a format needs.

    Raises:
        UnusableRow: The field is missing or null.
    """
    if row.get(name) is None:
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no column {name}")
    return row[name]


def as_list(value: Any, name: str) -> list[Any]:
    """Return a list; a text is parsed as one, as in a CSV file.

    Raises:
        UnusableRow: The value is not a list.
    """
    if isinstance(value, str):
        value = parse(value)
    if value is None or isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is not a list")
    return list(value)


def is_filled(value: Any) -> bool:
    """Return whether a field has content: it is neither null nor an empty text, list or object."""
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def is_list(value: Any) -> bool:
    """Return whether a value is a list or an array; texts and objects are not."""
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes | Mapping)


def parse(text: str) -> Any:
    """Return the list or object that a text spells as JSON or as a Python literal; None if it spells neither."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, TypeError):
            continue
    return None
