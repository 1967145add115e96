"""Reads whether responses were finished or cut, from the fields in which generators and data sets record it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rao_kedro.data.fields import Row, as_list, is_list, parse
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow

_FIELDS = ("finished", "finish_reason", "stop_reason", "truncated")
_YES: tuple[str, ...] = ("true", "1", "1.0", "yes")
_NO: tuple[str, ...] = ("false", "0", "0.0", "no")
_ENDED: tuple[str, ...] = ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "finished")
_CUT: tuple[str, ...] = ("length", "max_tokens", "max_length", "max_new_tokens", "model_length", "truncated")
_CUT += ("content_filter", "abort")


def read_finished_of_objects(responses: Sequence[Any]) -> list[bool] | None:
    """Return whether each response was finished, from fields of the responses; None if no response has such a field."""
    last = [response[-1] if isinstance(response, list) and response else response for response in responses]
    return _known([_first(response) if isinstance(response, Mapping) else None for response in last])


def read_finished_of_row(row: Row, n: int) -> list[bool] | None:
    """Return whether each of `n` responses was finished, from a list or a single value of the row; None without either.

    Raises:
        UnusableRow: A list does not have `n` values, or a value is unknown.
    """
    for field in _FIELDS:
        for name in (field, f"{field}s"):
            if (value := row.get(name)) is not None and value != "":
                return _known([_read(field, one) for one in _each(name, value, n)])
    return None


def read_finished_of_pair(row: Row, n_chosen: int, n_rejected: int) -> list[bool] | None:
    """Return whether chosen and rejected responses were finished, from `finished_chosen`, `rejected-finish-reason` ...

    A row without such fields is read by `read_finished_of_row`.

    Raises:
        UnusableRow: A list does not have `n` values, or a value is unknown.
    """
    fields = {str(name).replace("-", "_").lower(): value for name, value in row.items()}
    found: list[bool | None] = []
    for side, n in (("chosen", n_chosen), ("rejected", n_rejected)):
        for form in (f"{{0}}_{side}", f"{side}_{{0}}"):
            names = [(field, name) for field in _FIELDS if fields.get(name := form.format(field)) is not None]
            if names:
                field, name = names[0]
                found += [_read(field, one) for one in _each(name, fields[name], n)]
                break
        else:
            found += [None] * n
    return _known(found) or read_finished_of_row(row, n_chosen + n_rejected)


def _first(response: Row) -> bool | None:
    said = [_read(field, response[field]) for field in _FIELDS if response.get(field) is not None]
    return False if False in said else True if True in said else None  # a field that says "cut" wins


def _each(name: str, value: Any, n: int) -> list[Any]:
    if isinstance(value, str) and is_list(written := parse(value)):
        value = written
    values = as_list(value, name) if is_list(value) else [value] * n
    if len(values) != n:
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} has {len(values)} values for {n} responses")
    return values


def _known(values: list[bool | None]) -> list[bool] | None:
    """Return the values if any is known; a response without one counts as finished."""
    return None if all(value is None for value in values) else [value is not False for value in values]


def _read(field: str, value: Any) -> bool | None:
    said = str(value).strip().lower()
    if value is None or said in ("", "nan"):
        return None
    yes, no = {"finished": (_YES, _NO), "truncated": (_NO, _YES)}.get(field, (_ENDED, _CUT))
    if field == "stop_reason" and said not in no:  # vLLM writes the stop text or the stop token into this field
        return True
    if said not in yes + no:
        detail = f"{field} {value!r} is not one of {', '.join(yes + no)}"
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    return said in yes
