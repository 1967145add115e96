"""Files of benchmarks: read once per run from where they lie (a local path, `https://`, `hf://`), checked, and kept.

A directory of them has a `manifest.json`: by the parameter that names a file, where it came from, its revision, its
SHA-256 and its number of rows.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

import pandas as pd

from rao_kedro.config.benchmarks import AnsweredBenchmarks, TaskSource
from rao_kedro.errors import DataError
from rao_kedro.files import replacing_directory
from rao_kedro.identity import file_hash

MANIFEST = "manifest.json"
COMMIT = re.compile(r"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")  # in a location: what lies there does not change
PAUSES = (1.0, 5.0)  # seconds before another try
FINAL_STATUSES = (401, 403, 404)
NOT_A_FAULT_OF_THE_NET = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

Benchmarks = TypeVar("Benchmarks", bound=AnsweredBenchmarks)


def collect_files(benchmarks: AnsweredBenchmarks, directory: Path) -> None:
    """Bring the files of the chosen benchmarks together, and check that they are what their benchmarks need.

    Those that are there already, from a location with a commit in it, are not fetched again.

    Args:
        benchmarks: Which, and where their files are.
        directory: Where to; it is replaced as a whole.

    Raises:
        DataError: One cannot be had, or holds something else; names the parameter.
    """
    kept = _manifest(directory) if (directory / MANIFEST).exists() else {}
    with replacing_directory(directory) as partial:
        manifest = {}
        for name, location in _needed(benchmarks).items():
            with _naming(f"evaluation.benchmarks.{name}"):
                manifest[name] = _collect_file(location, partial / name, directory, kept.get(name, {}))
        if benchmarks.downstream:
            from rao_kedro.evals.downstream.sources import collect_rows

            for task in benchmarks.downstream:
                with _naming(f"evaluation.benchmarks.sources.{task}"):
                    manifest[f"sources.{task}"] = collect_rows(task, benchmarks.sources.get(task), partial)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2))
        _check(_local(benchmarks, partial, manifest))


def with_collected_files(benchmarks: Benchmarks, directory: Path | None) -> Benchmarks:
    """Return parameters whose locations are the files that were collected; None leaves them as they are."""
    return benchmarks if directory is None else _local(benchmarks, directory, _manifest(directory))


def _local(benchmarks: Benchmarks, directory: Path, manifest: dict[str, dict[str, Any]]) -> Benchmarks:
    paths = {name: str(directory / entry["file"]) for name, entry in manifest.items()}

    def of(block: str) -> dict[str, str]:
        return {name.removeprefix(f"{block}."): path for name, path in paths.items() if name.startswith(f"{block}.")}

    return benchmarks.model_copy(
        update={
            "alpaca_eval": benchmarks.alpaca_eval.model_copy(update=of("alpaca_eval")),
            "mt_bench": benchmarks.mt_bench.model_copy(update=of("mt_bench")),
            "sources": benchmarks.sources | {task: TaskSource(path=path) for task, path in of("sources").items()},
        }
    )


def _needed(benchmarks: AnsweredBenchmarks) -> dict[str, str]:
    """Return the locations of AlpacaEval's and MT-Bench's files, as far as they are read, by the parameter."""
    names, needed = benchmarks.names, {}
    if "alpaca_eval" in names:
        how = benchmarks.alpaca_eval
        needed["alpaca_eval.baseline"] = how.baseline
        if how.instruction_difficulty and how.gamed and benchmarks.limit is None:
            needed["alpaca_eval.instruction_difficulty"] = how.instruction_difficulty
            needed["alpaca_eval.gamed"] = how.gamed
    if "mt_bench" in names:
        files = ("questions", "reference_answers", "judge_prompts")
        needed |= {f"mt_bench.{file}": getattr(benchmarks.mt_bench, file) for file in files}
    return needed


def _collect_file(location: str, folder: Path, directory: Path, kept: dict[str, Any]) -> dict[str, Any]:
    """Write a file into a folder of its own, under its own name; return what the manifest says of it."""
    folder.mkdir()
    path = folder / PurePosixPath(urlsplit(location).path).name
    old = directory / kept["file"] if kept.get("location") == location and COMMIT.search(location) else None
    if old is not None and old.exists() and file_hash(old).hex() == kept["sha256"]:
        shutil.copyfile(old, path)
    else:
        path.write_bytes(_content(location))
    rows = read_csv(str(path)) if ".csv" in path.suffixes else read_json_rows(str(path))
    commit = COMMIT.search(location)
    return {
        "location": location,
        "revision": commit.group() if commit else None,
        "file": f"{folder.name}/{path.name}",
        "sha256": file_hash(path).hex(),
        "rows": len(rows),
    }


def _content(location: str) -> bytes:
    """Return the bytes of a file; the net is tried three times, by the hub's library if it is on the hub."""
    for pause in (*(() if location.startswith("hf://") else PAUSES), None):
        try:
            with _opened(location, "rb", None) as file:
                return file.read()
        except DataError as error:
            if pause is None or _is_final(error.__cause__):
                raise
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _is_final(error: BaseException | None) -> bool:
    """Say whether another try is of no use."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:  # so fsspec calls all that HTTP may answer
        return getattr(error.__cause__, "status", None) in FINAL_STATUSES
    return isinstance(error, (ImportError, *NOT_A_FAULT_OF_THE_NET))


@contextmanager
def _naming(parameter: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"{parameter}: {error}") from error


def _manifest(directory: Path) -> dict[str, dict[str, Any]]:
    return json.loads((directory / MANIFEST).read_text())


def _check(benchmarks: AnsweredBenchmarks) -> None:
    """Refuse files that answering or judging would fail on, hours later."""
    names, how = benchmarks.names, benchmarks.mt_bench
    if "alpaca_eval" in names:
        columns = {"instruction", "output", "generator"}
        for number, row in enumerate(read_json_rows(benchmarks.alpaca_eval.baseline), start=1):
            if missing := columns - row.keys():
                raise DataError(
                    f"evaluation.benchmarks.alpaca_eval.baseline: row {number} has no {', '.join(sorted(missing))}"
                )
    if "mt_bench" in names:
        from rao_kedro.evals.mt_bench.questions import JudgePrompts, read_questions

        rows = [read_json_rows(path) for path in (how.questions, how.reference_answers, how.judge_prompts)]
        with _naming("evaluation.benchmarks.mt_bench"):
            with _form_of_fastchat("questions or reference_answers"):
                questions = read_questions(*rows[:2])
            with _form_of_fastchat("judge_prompts"):
                prompts, answers = JudgePrompts(rows[2]), ["", ""]
                for question in questions:
                    prompts.grading(question, answers)
                    if how.compare_with_sft:
                        prompts.comparing(question, answers, answers)


@contextmanager
def _form_of_fastchat(files: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{files} do not have the form of FastChat's ({type(error).__name__}: {error})") from error


def read_json_rows(location: str) -> list[dict[str, Any]]:
    """Read a list of objects: a JSON file, or one with an object per line where its name ends with `.jsonl`.

    Raises:
        DataError: It cannot be had, or holds something else.
    """
    with _opened(location) as file:
        try:
            by_line = location.removesuffix(".gz").endswith(".jsonl")
            rows = [json.loads(line) for line in file if line.strip()] if by_line else json.load(file)
        except ValueError as error:
            raise DataError(f"{location} is not what its ending says: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{location} holds no list of objects")
    return rows


def read_csv(location: str) -> pd.DataFrame:
    """Read a table.

    Raises:
        DataError: It cannot be had, or is no table.
    """
    with _opened(location) as file:
        try:
            return pd.read_csv(file)
        except ValueError as error:  # pandas' errors of parsing are ValueErrors
            raise DataError(f"{location} is not what its ending says: {error}") from error


@contextmanager
def _opened(location: str, mode: str = "rt", compression: str | None = "infer") -> Iterator[IO[Any]]:
    import fsspec

    encoding = {} if "b" in mode else {"encoding": "utf-8"}
    try:
        with fsspec.open(location, mode, compression=compression, **encoding) as file:
            yield file
    except (OSError, ImportError) as error:  # fsspec's errors of the net are OSErrors too
        raise DataError(
            f"{location} cannot be had ({_said(error)}): check the name and the net, or download it and set the "
            "parameter to the local path"
        ) from error


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if error.__cause__ is None else _said(error.__cause__)
