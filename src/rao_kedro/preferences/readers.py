"""Reads rows of preference data: local JSON lines, JSON, parquet or CSV (gzipped or not), or a dataset of the hub.

Knows nothing about what a row means; see `formats`.
"""

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rao_kedro.errors import DataError
from rao_kedro.schemas.parameters import PreferenceSource

ENDINGS = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True)
class RawRow:
    """A row and where it stood, as `file:row` counted from 1; a `str` where its line is not JSON."""

    source: str
    content: dict[str, Any] | str


def read_rows(source: PreferenceSource) -> Iterator[RawRow]:
    """Yield the rows of a source: behind `source.skip_rows`, at most `source.max_rows`.

    Raises:
        DataError: The source cannot be read; names the file or the dataset, and what to do.
    """
    rows = _local_rows(Path(source.path)) if source.path else _hub_rows(source)
    return islice(rows, source.skip_rows, source.max_rows and source.skip_rows + source.max_rows)


def _local_rows(path: Path) -> Iterator[RawRow]:
    files = [path]
    if path.is_dir():  # a set, since ".jsonl" is a ".json" to glob
        files = sorted({file for ending in ENDINGS for file in path.glob(f"*{ending}*")})
    if not files or not files[0].exists():
        raise DataError(f"{path}: there is no such file of preference data; set `path` under data.preferences")
    for file in files:
        for number, content in enumerate(_file_rows(file), start=1):
            yield RawRow(f"{file.name}:{number}", content)


def _file_rows(file: Path) -> Iterator[dict[str, Any] | str]:
    name = file.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
                yield from batch.to_pylist()
            return
        with _open(file) as lines:
            if name.endswith(".jsonl"):
                yield from (_parsed(line) for line in lines if line.strip())
            elif name.endswith(".json"):
                yield from _json_list(json.load(lines), file)
            elif name.endswith(".csv"):
                yield from csv.DictReader(lines)
            else:
                raise DataError(f"{file}: only {', '.join(ENDINGS)} can be read, gzipped or not; convert the file")
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{file} is not what its ending says: {error}") from error


def _open(file: Path) -> IO[str]:
    if file.name.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8")
    return file.open(encoding="utf-8", newline="")


def _parsed(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return line
    return row if isinstance(row, dict) else line


def _json_list(value: Any, file: Path) -> list[dict[str, Any]]:
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    raise DataError(f"{file}: a JSON file of preference data holds one list of objects")


def _hub_rows(source: PreferenceSource) -> Iterator[RawRow]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(source.hub_id, split=source.split, revision=source.revision)
    except (DatasetNotFoundError, OSError, ValueError) as error:
        raise DataError(
            f"the dataset {source.hub_id!r} (split {source.split!r}) cannot be had from the hub now: check the name, "
            f"log in with `hf auth login` if it is gated, or set `path` to a local copy ({error})"
        ) from error
    for number, row in enumerate(rows, start=1):
        yield RawRow(f"{source.hub_id}/{source.split}:{number}", dict(row))
