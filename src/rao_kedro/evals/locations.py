"""Opens files of benchmarks wherever they are: a local path, `https://...` or `hf://datasets/...`, gzipped or not."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pandas as pd

from rao_kedro.errors import DataError

PAUSES = (1.0, 5.0)  # seconds before the second and the third attempt
FINAL_STATUSES = (401, 403, 404)
LOCAL_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def read_json_rows(location: str) -> list[dict[str, Any]]:
    """Read a list of objects from a JSON file, or from a file with one object per line (`.jsonl`, `.jsonl.gz`).

    Raises:
        DataError: The file cannot be read, is no JSON, or holds something else than objects.
    """
    with open_location(location) as file:
        try:
            by_line = location.removesuffix(".gz").endswith(".jsonl")
            rows = [json.loads(line) for line in file if line.strip()] if by_line else json.load(file)
        except ValueError as error:
            raise DataError(f"{location} does not have the format of its extension: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{location} holds no list of objects")
    return rows


def read_csv(location: str) -> pd.DataFrame:
    """Read a CSV file.

    Raises:
        DataError: The file cannot be read, or is no table.
    """
    with open_location(location) as file:
        try:
            return pd.read_csv(file)
        except ValueError as error:  # pandas' parsing errors are ValueErrors
            raise DataError(f"{location} does not have the format of its extension: {error}") from error


def read_bytes(location: str) -> bytes:
    """Read a whole file; a download is tried three times. The hub's own library repeats downloads from `hf://` itself.

    Raises:
        DataError: The file cannot be read.
    """
    for pause in (*(() if location.startswith("hf://") else PAUSES), None):
        try:
            with open_location(location, "rb", None) as file:
                return file.read()
        except DataError as error:
            if pause is None or _is_permanent(error.__cause__):
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def open_location(location: str, mode: str = "rt", compression: str | None = "infer") -> Iterator[IO[Any]]:
    """Open a file with fsspec.

    Raises:
        DataError: The file cannot be opened or read.
    """
    import fsspec

    encoding = {} if "b" in mode else {"encoding": "utf-8"}
    try:
        with fsspec.open(location, mode, compression=compression, **encoding) as file:
            yield file
    except (OSError, ImportError) as error:  # fsspec's network errors are OSErrors, too
        raise DataError(
            f"{location} cannot be fetched ({_first_cause(error)}): check the name and the network, or download it and "
            "set the parameter to the local path"
        ) from error


def _is_permanent(error: BaseException | None) -> bool:
    """Return whether another attempt would fail in the same way."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:  # fsspec raises it for any HTTP status
        return getattr(error.__cause__, "status", None) in FINAL_STATUSES
    return isinstance(error, (ImportError, *LOCAL_ERRORS))


def _first_cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if error.__cause__ is None else _first_cause(error.__cause__)
