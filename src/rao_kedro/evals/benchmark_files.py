"""Reads files of benchmarks from where they lie: a local path, `https://`, `hf://`; gzipped or not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pandas as pd

from rao_kedro.errors import DataError


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
        DataError: It cannot be had.
    """
    with _opened(location) as file:
        return pd.read_csv(file)


@contextmanager
def _opened(location: str) -> Iterator[IO[str]]:
    import fsspec

    try:
        with fsspec.open(location, "rt", encoding="utf-8", compression="infer") as file:
            yield file
    except (OSError, ImportError) as error:  # fsspec's errors of the net are OSErrors too
        raise DataError(
            f"{location} cannot be had ({type(error).__name__}: {error}): check the name and the net, or download it "
            "and set the parameter to the local path"
        ) from error
