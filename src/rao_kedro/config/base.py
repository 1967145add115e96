"""What all blocks of parameters share: their base class, lists of names, and names that become files."""

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

LONGEST = 100  # characters of a file name
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Parameters(BaseModel):
    """A block of parameters: frozen, and an unknown key is an error."""

    # An input may hold a key of a server: errors do not quote it.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)


def _split(names: object) -> object:
    """Split a string at its blanks: `--params` has no other way to write a list, since it splits at commas."""
    return names.split() if isinstance(names, str) else names


def _check_file_name(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > LONGEST:
        raise ValueError(
            f"{name!r} becomes the name of a file: use up to {LONGEST} letters, digits, '_', '-' and '.', and no '.' "
            "at its beginning"
        )
    return name


T = TypeVar("T", bound=Mapping[str, object])


def _check_that_names_differ(values: T) -> T:
    names: dict[str, str] = {}
    for name in values:
        if (other := names.setdefault(name.casefold().replace(".", "_"), name)) != name:
            raise ValueError(f"{other!r} and {name!r} become the same name of a file or namespace: rename one of them")
    return values


SPLIT = BeforeValidator(_split)
Names = Annotated[tuple[str, ...], SPLIT]  # a YAML list, or one string with blanks between the names
# What every file system and MLflow accept as a name; it cannot leave its folder.
FileName = Annotated[str, AfterValidator(_check_file_name)]
DIFFERENT_NAMES = AfterValidator(_check_that_names_differ)  # of a dictionary whose keys are `FileName`s
