"""Names that users give and that become names of files and folders."""

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator

LONGEST = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


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
        if (other := names.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"{other!r} and {name!r} become the same file where case does not count: rename one")
    return values


# What every file system and MLflow take; it stays in its folder.
FileName = Annotated[str, AfterValidator(_check_file_name)]
DIFFERENT_NAMES = AfterValidator(_check_that_names_differ)  # of a dictionary whose keys are `FileName`s
