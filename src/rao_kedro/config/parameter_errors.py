"""Says in sentences what is wrong with parameters; a name that is unknown comes with the nearest that is known."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

SHOWN = 12  # known names, where none is near


def sentence(detail: ErrorDetails, *known: type[BaseModel]) -> str:
    """Return the sentence on one of the errors that pydantic found."""
    if detail["type"] == "extra_forbidden":
        return unknown_name(detail["loc"], *known)
    if detail["type"] in ("model_type", "dict_type"):
        return _no_block(detail["loc"], *known)
    return f"parameter {'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"


def unknown_name(loc: Sequence[int | str], *known: type[BaseModel]) -> str:
    """Return the sentence that refuses a name.

    Args:
        loc: Its parts.
        *known: Models that hold the names that are known; the part's own place is looked for in the first.
    """
    *place, name = map(str, loc)
    beside = {other for model in (known if not place else known[:1]) for other in _fields_at(model, place)}
    return f"there is no parameter {'.'.join([*place, name])}: {nearest(name, place, beside, *known)}"


def _no_block(loc: Sequence[int | str], *known: type[BaseModel]) -> str:
    """Return the sentence on a value that stands where a block of parameters belongs."""
    name = ".".join(map(str, loc))
    inside = sorted(_fields_at(known[0], [*map(str, loc)]))[:3]
    shown = f" ({', '.join(f'{name}.{part}' for part in inside)} ...)" if inside else ""
    alike = [other for model in known for other in model.model_fields if other.startswith(f"{name}_")]
    meant = f", or {alike[0]}" if alike else ""
    return f"parameter {name} is a block of parameters and takes no value: give one inside it{shown}{meant}"


def nearest(name: str, place: Sequence[str], beside: set[str], *known: type[BaseModel]) -> str:
    """Return what was meant by a name that is unknown.

    Args:
        name: Its last part.
        place: The parts before.
        beside: The names that are known in its place.
        *known: Models whose names are looked through where none beside is near.
    """
    names = sorted(beside)
    if close := get_close_matches(name, names, 1) or [other for other in names if other.startswith(name)]:
        return f"did you mean {'.'.join([*place, close[0]])}?"
    every = list(dict.fromkeys(dotted for model in reversed(known) for dotted in _dotted_names(model)))
    parts = sorted({dotted.rpartition(".")[2] for dotted in every})
    close = [name] if name in parts else get_close_matches(name, parts, 1, cutoff=0.8)
    if meant := [dotted for dotted in every if close and dotted.rpartition(".")[2] == close[0]]:
        meant.sort(key=lambda dotted: not dotted.startswith(".".join([*place, ""])))
        return f"did you mean {' or '.join(meant[:3])}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"known are {', '.join(names[:SHOWN])}{more}" if names else "nothing is known in that place"


def _fields_at(model: type[BaseModel], place: Sequence[str]) -> set[str]:
    """Return the names of the fields in a place; none where the place has no fields of its own."""
    annotation: Any = model
    for part in place:
        annotation = next((found for kind in _kinds(annotation) for found in _below(kind, part)), None)
    return {name for kind in _kinds(annotation) if _is_model(kind) for name in kind.model_fields}


def _below(kind: Any, part: str) -> Iterator[Any]:
    if _is_model(kind):
        if part in kind.model_fields:
            yield kind.model_fields[part].annotation
    elif get_origin(kind) in (dict, Mapping):
        yield get_args(kind)[1]


def _kinds(annotation: Any) -> list[Any]:
    """Return what a union is of, and what an annotated type is."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _dotted_names(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{before}{name}"
        for kind in filter(_is_model, _kinds(field.annotation)):
            yield from _dotted_names(kind, f"{before}{name}.")
