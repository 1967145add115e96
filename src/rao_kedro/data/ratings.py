"""Reads ratings: numbers, texts such as "4.5 / 5", and ranks. The ratings of one group are on one scale.

Knows nothing about prompts and responses.
"""

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rao_kedro.data.fields import Row, as_list, is_list, look_up, parse
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow

# Names of rating fields, in the order in which they are searched. The last two are ranks: the lowest is best.
RATING_NAMES = ("rating", "score", "reward", "avg_rating", "rm_score", "rank", "ranking")
ORDER = "the order of chosen and rejected"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of names such as rank.gpt4, human_rank and humanRank
_RANKS = {"rank", "ranks", "ranking", "rankings"}
_WRITTEN = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?:\s*(?:/|out of)\s*(\d+(?:\.\d+)?))?")
_UNRATED = {"", "n/a", "na", "none", "null", "-"}


@dataclass(frozen=True)
class Ratings:
    """Ratings of a group's responses.

    Attributes:
        values: Per response a number, which may be NaN or infinite; None if it has no rating; the error if its rating
            cannot be read.
        by: The field that they come from, in the words of the data report.
    """

    values: Sequence[float | UnusableRow | None]
    by: str


def is_rank(name: str) -> bool:
    """Return whether a field holds ranks (the lowest is best): a word of its name is rank or ranking."""
    return any(word.lower() in _RANKS for word in _WORD.findall(name))


def read_ratings(name: str, values: Sequence[Any]) -> Ratings:
    """Read the ratings that the responses of a group have in one field; ranks become negative ratings.

    Raises:
        UnusableRow: The ratings are on different scales ("4/5" and "7/10").
    """
    read = [_read(name, value) for value in values]
    scales = {scale for value, scale in read if isinstance(value, float) and math.isfinite(value)}
    if len(scales) > 1:
        detail = f"ratings of {name} are on different scales: {', '.join(sorted(repr(v) for v in values))}"
        raise UnusableRow(QuarantineReason.BAD_RATING, detail)
    if not is_rank(name):
        return Ratings([value for value, _ in read], name if scales <= {None} else f"{name} (of {scales.pop()})")
    return Ratings([-v if isinstance(v, float) else v for v, _ in read], f"{name} (the lowest is best)")


def choose_ratings(fields: Mapping[str, Sequence[Any]]) -> Ratings:
    """Return the ratings of the first field that all responses have, or else of the field that most responses have.

    Args:
        fields: The value of every response, by the name of the field.
    """
    found = [read_ratings(name, values) for name, values in fields.items()]
    return max(found, key=_how_many)


def _how_many(ratings: Ratings) -> tuple[int, int]:
    """Return how many responses have a finite number, and how many have any value."""
    numbers = sum(isinstance(value, float) and math.isfinite(value) for value in ratings.values)
    return numbers, sum(value is not None for value in ratings.values)


def rate_objects(responses: Sequence[Any], keys: Sequence[str]) -> Ratings:
    """Return the ratings in fields of the responses; a key may be dotted.

    Raises:
        UnusableRow: No response has such a field.
    """
    fields = {key: [_rating_of(response, key) for response in responses] for key in keys}
    if all(value is None for values in fields.values() for value in values):
        detail = f"no response has a field {' or '.join(keys)}: name it with rating_key"
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, detail)
    return choose_ratings(fields)


def rate_pair(row: Row, rating_key: str | None, n_chosen: int, n_rejected: int) -> Ratings:
    """Return the ratings of chosen and rejected responses; 1 and 0 if the row has no ratings.

    Ratings are fields such as `chosen_rating` and `rejected-rating`, `score_chosen`, `chosen_avg_rating`, in the row or
    in its `metadata`.

    Args:
        row: The row.
        rating_key: The field's name without `chosen` and `rejected`, if it is not one of `RATING_NAMES`.
        n_chosen: Number of chosen responses.
        n_rejected: Number of rejected ones.

    Raises:
        UnusableRow: A rejected response is rated above a chosen one, or there is no field of the name `rating_key`.
    """
    metadata = row.get("metadata")
    for place in (row, parse(metadata) if isinstance(metadata, str) else metadata):
        if not isinstance(place, Mapping):
            continue
        fields = {str(name).replace("-", "_").lower(): value for name, value in place.items() if value != ""}
        for name in (rating_key,) if rating_key else RATING_NAMES:
            plain = name.replace("-", "_").lower()
            for form in ("{0}_{1}", "{1}_{0}"):
                chosen, rejected = (fields.get(form.format(side, plain)) for side in ("chosen", "rejected"))
                if chosen is None and rejected is None:
                    continue
                by = f"{form.format('chosen', name)}, {form.format('rejected', name)}"
                ratings = read_ratings(name, [*_each(chosen, n_chosen), *_each(rejected, n_rejected)])
                _check_order(ratings.values[:n_chosen], ratings.values[n_chosen:], by)
                return Ratings(ratings.values, ratings.by.replace(name, by, 1))
    if rating_key:
        detail = f"no columns chosen_{rating_key} and rejected_{rating_key}, which rating_key names"
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, detail)
    return Ratings([1.0] * n_chosen + [0.0] * n_rejected, ORDER)


def _rating_of(response: Any, key: str) -> Any:
    """Return the value of a key; for a key with `*` the mean of its values, or None if one of them cannot be read."""
    found = look_up(response, key)
    if "*" not in key or not is_list(found):
        return found
    values = [_read(key, value)[0] for value in found]
    known = [value for value in values if isinstance(value, float)]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _each(value: Any, n: int) -> list[Any]:
    """Return the ratings of `n` responses from a field that holds a list, or one rating for one response."""
    values = as_list(value, "a list of ratings") if is_list(value) else [value]
    if len(values) != n:
        raise UnusableRow(QuarantineReason.BAD_RATING, f"{len(values)} ratings of {n} responses")
    return values


def _check_order(chosen: Sequence[Any], rejected: Sequence[Any], by: str) -> None:
    best = max((value for value in rejected if isinstance(value, float)), default=-math.inf)
    worst = min((value for value in chosen if isinstance(value, float)), default=math.inf)
    if best > worst:
        detail = f"{by} rate a rejected response above a chosen one; `columns` can declare ranks (`chosen_rank`)"
        raise UnusableRow(QuarantineReason.CONTRADICTORY_RATINGS, detail)


def _read(name: str, value: Any) -> tuple[float | UnusableRow | None, str | None]:
    """Return a rating, or the error if it cannot be read, and the scale that its text names."""
    if isinstance(value, str):
        return _read_text(value.strip())
    if value is None:
        return None, None
    if isinstance(value, Mapping):
        fields = ", ".join(f"{name}.{field}" for field in value)
        return _bad(f"rating {name} is an object: set rating_key to one of {fields}"), None
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        return _bad(f"rating {value!r} is not a number"), None
    try:
        return float(value), None
    except OverflowError:
        return _bad(f"rating {name} is too large for a float"), None


def _read_text(text: str) -> tuple[float | UnusableRow | None, str | None]:
    if text.lower() in _UNRATED:
        return None, None
    if text.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        return float(text), None
    if (found := _WRITTEN.fullmatch(text)) is None:
        return _bad(f"rating {text!r} is not a number"), None
    value, scale = float(found[1]), found[2]
    if scale is not None and not 0 <= value <= float(scale):
        return _bad(f"rating {text!r} lies outside its scale"), None
    return value, scale


def _bad(detail: str) -> UnusableRow:
    return UnusableRow(QuarantineReason.BAD_RATING, detail)
