"""Collects the files of the chosen benchmarks once per run, checks them, and keeps them in one directory.

The directory has a `manifest.json`. For each parameter that names a file it holds the location, revision, SHA-256 and
number of rows.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rao_kedro.errors import DataError
from rao_kedro.evals.downstream.parameters import TaskSource
from rao_kedro.evals.locations import read_bytes, read_csv, read_json_rows
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.evals.registry import BENCHMARKS
from rao_kedro.files import replacing_directory
from rao_kedro.identity import file_hash

MANIFEST = "manifest.json"
PARAMETERS = "evaluation.benchmarks"
COMMIT = re.compile(r"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")  # a location with a commit always has the same content

Benchmarks = TypeVar("Benchmarks", bound=AnsweredBenchmarks)


def collect_files(benchmarks: AnsweredBenchmarks, directory: Path) -> None:
    """Copy the files of the chosen benchmarks into a directory, and check that they have their benchmark's form.

    Files that are there already, from a location with a commit in it, are not read again.

    Args:
        benchmarks: The chosen benchmarks, and where their files are.
        directory: The directory; it is replaced as a whole.

    Raises:
        DataError: A file cannot be read or has another form; names the parameter.
    """
    kept = _read_manifest(directory) if (directory / MANIFEST).exists() else {}
    with replacing_directory(directory) as partial:
        manifest = {}
        for benchmark in benchmarks.judged:
            for field, location in benchmark.files().items():
                name = f"{benchmark.name}.{field}"
                with _name_parameter(name):
                    manifest[name] = _collect_file(location, partial / name, directory, kept.get(name, {}))
        if benchmarks.downstream:
            from rao_kedro.evals.downstream.sources import collect_rows

            for task in benchmarks.downstream:
                name = f"sources.{task}"
                with _name_parameter(name):
                    manifest[name] = collect_rows(task, benchmarks.sources.get(task), partial)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for benchmark in _replace_locations(benchmarks, partial, manifest).judged:
            with _name_parameter(benchmark.name):
                benchmark.check_files()


def with_collected_files(benchmarks: Benchmarks, directory: Path | None) -> Benchmarks:
    """Return parameters that name the collected files; without a directory, the same parameters."""
    return benchmarks if directory is None else _replace_locations(benchmarks, directory, _read_manifest(directory))


def _replace_locations(benchmarks: Benchmarks, directory: Path, manifest: dict[str, dict[str, Any]]) -> Benchmarks:
    paths = {name: str(directory / entry["file"]) for name, entry in manifest.items()}

    def of_block(block: str) -> dict[str, str]:
        return {name.removeprefix(f"{block}."): path for name, path in paths.items() if name.startswith(f"{block}.")}

    blocks = {name: benchmarks.block(name).model_copy(update=of_block(name)) for name in BENCHMARKS}
    sources = {task: TaskSource(path=path) for task, path in of_block("sources").items()}
    return benchmarks.model_copy(update={**blocks, "sources": benchmarks.sources | sources})


def _collect_file(location: str, folder: Path, directory: Path, kept: dict[str, Any]) -> dict[str, Any]:
    """Copy a file into a folder of its own, under its own name; return its entry in the manifest."""
    folder.mkdir()
    path = folder / PurePosixPath(urlsplit(location).path).name
    old = directory / kept["file"] if kept.get("location") == location and COMMIT.search(location) else None
    if old is not None and old.exists() and file_hash(old).hex() == kept["sha256"]:
        shutil.copyfile(old, path)
    else:
        path.write_bytes(read_bytes(location))
    rows = read_csv(str(path)) if ".csv" in path.suffixes else read_json_rows(str(path))
    commit = COMMIT.search(location)
    return {
        "location": location,
        "revision": commit.group() if commit else None,
        "file": f"{folder.name}/{path.name}",
        "sha256": file_hash(path).hex(),
        "rows": len(rows),
    }


@contextmanager
def _name_parameter(name: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{PARAMETERS}.{name}: {error}") from error


def _read_manifest(directory: Path) -> dict[str, dict[str, Any]]:
    manifest: dict[str, dict[str, Any]] = json.loads((directory / MANIFEST).read_text())
    return manifest
