"""Sentences that say what is wrong with parameters. An unknown name comes with the nearest known one."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

SHOWN = 12  # known names that are listed when none is near


def sentence(detail: ErrorDetails, *known: type[BaseModel]) -> str:
    """Return the sentence for an error of pydantic."""
    if detail["type"] == "extra_forbidden":
        return unknown_name(detail["loc"], *known)
    if detail["type"] in ("model_type", "dict_type"):
        return _no_block(detail["loc"], *known)
    return f"parameter {'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"


def unknown_name(loc: Sequence[int | str], *known: type[BaseModel]) -> str:
    """Return the sentence that refuses an unknown name.

    Args:
        loc: The parts of the dotted name.
        *known: Models with the known names. The place of the name is looked up in the first model.
    """
    *place, name = map(str, loc)
    beside = {other for model in (known if not place else known[:1]) for other in _fields_at(model, place)}
    return f"there is no parameter {'.'.join([*place, name])}: {nearest(name, place, beside, *known)}"


def _no_block(loc: Sequence[int | str], *known: type[BaseModel]) -> str:
    """Return the sentence that refuses a value in the place of a block of parameters."""
    name = ".".join(map(str, loc))
    inside = [*_fields_at(known[0], [*map(str, loc)])][:3]
    shown = f" ({', '.join(f'{name}.{part}' for part in inside)} ...)" if inside else ""
    alike = [other for model in known for other in model.model_fields if other.startswith(f"{name}_")]
    meant = f", or {alike[0]}" if alike else ""
    return f"parameter {name} is a block of parameters and takes no value: give one inside it{shown}{meant}"


def nearest(name: str, place: Sequence[str], beside: set[str], *known: type[BaseModel]) -> str:
    """Return what an unknown name may have meant.

    Args:
        name: The last part of the dotted name.
        place: The parts before it.
        beside: Known names in the same place.
        *known: Models whose names are searched if no name in the same place is near.
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


def _fields_at(model: type[BaseModel], place: Sequence[str]) -> dict[str, None]:
    """Return the names of the fields in a place, a block's own before inherited ones; empty if it is no block."""
    annotation: Any = model
    for part in place:
        annotation = next((found for kind in _kinds(annotation) for found in _below(kind, part)), None)
    names: dict[str, None] = {}
    for kind in filter(_is_model, _kinds(annotation)):
        own = [name for name in kind.model_fields if name in kind.__annotations__]
        names |= dict.fromkeys([*own, *kind.model_fields])
    return names


def _below(kind: Any, part: str) -> Iterator[Any]:
    if _is_model(kind):
        if part in kind.model_fields:
            yield kind.model_fields[part].annotation
    elif get_origin(kind) in (dict, Mapping):
        yield get_args(kind)[1]


def _kinds(annotation: Any) -> list[Any]:
    """Return the members of a union; annotations are unwrapped."""
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
