"""Refuses catalog entries whose location cannot be read or written, before anything runs."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
from kedro.io import DatasetError
from kedro.io.core import get_protocol_and_path, parse_dataset_definition

from rao_kedro.datasets.checkpoint import DirectoryDataset
from rao_kedro.errors import ParameterError

SAME_FILE = ("filepath", "versioned", "credentials", "fs_args")  # must be equal in all entries of one file
SHOWN = 5  # problems; one setting in globals.yml may cause one for every entry


def refuse_unusable_locations(catalog: Mapping[str, Any]) -> None:
    """Check the locations of a catalog's entries.

    Args:
        catalog: The configuration of the catalog, with dataset factories (`{method}.policy`).

    Raises:
        ParameterError: Names the entries, and says why their locations cannot be used.
    """
    problems = [f"catalog entry {name}: {problem}" for name, problem in sorted(_problems(catalog))]
    if more := problems[SHOWN:]:
        problems[SHOWN:] = [f"and {len(more)} more entries"]
    if problems:
        raise ParameterError("\n".join(problems))


def _problems(catalog: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    of_one_file: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for name, entry in catalog.items():
        location = entry.get("filepath") or entry.get("path") if isinstance(entry, Mapping) else None
        if not isinstance(location, str):
            continue
        if problem := _problem(entry, location):
            yield name, problem
        if "@" in name:
            of_one_file[name.split("@")[0]][name] = [entry.get(key) for key in SAME_FILE]
    for names in of_one_file.values():
        (first, expected), *others = names.items()
        for name, found in others:
            for key, a, b in zip(SAME_FILE, expected, found, strict=True):
                if a != b:
                    yield name, f"its {key} is {b}, and that of {first}, which is the same file, is {a}"


def _problem(entry: Mapping[str, Any], location: str) -> str | None:
    protocol, path = get_protocol_and_path(location)
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        return f"{location}: there is no file system called {protocol} ({error})"
    except ImportError as error:
        return f"{location}: {error}"
    mounted = protocol == "file" and os.path.ismount(os.path.realpath(path))
    if mounted and issubclass(_class_of(entry), DirectoryDataset):  # classes of other entries need not be imported
        return f"{location} is where a file system is mounted, which cannot be renamed: choose a directory in it"
    return None


def _class_of(entry: Mapping[str, Any]) -> type:
    try:
        return parse_dataset_definition({"type": entry["type"]})[0]
    except DatasetError:  # of a package that is not installed: Kedro says so, if the entry is needed
        return object
