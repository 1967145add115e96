"""Reads rows of data from local files and folders, or from a dataset of the hub.

Knows nothing about what a row means: `data.formats` does.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rao_kedro.config.data_engineering import RowSource
from rao_kedro.errors import DataError

ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")
COMPRESSIONS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": lambda file: pa.input_stream(str(file), compression="zstd"),
}
# How repositories of the hub name splits: data/train-00000-of-00001.parquet, test.jsonl, default/train/0000.parquet.
_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_SPLITS = re.compile(r"(train|test|valid|validation|val|dev|eval|evaluation)(_\w+)?$")
_WORDS = re.compile(r"(?:^|[-._ \d])(train|test|valid|validation|val|dev|eval|evaluation)(?:ing)?(?=[-._ \d]|$)", re.I)
_ABOUT_DATA = (  # files that describe data and contain none
    *("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"),
    *("config.json", "metadata.json"),
)
_BEGINNINGS_OF_UTF16 = (b"\xff\xfe", b"\xfe\xff")

csv.field_size_limit(sys.maxsize)  # a dialogue can be longer than the default limit of 131,072 characters


@dataclass(frozen=True)
class RawRow:
    """A row and its place in the source.

    Attributes:
        source: `file:row`, counted from 1.
        content: Its columns; the text itself if it cannot be read as a row.
        problem: Why it cannot be read.
    """

    source: str
    content: dict[str, Any] | str
    problem: str = "the line is not a JSON object"


@dataclass(frozen=True)
class _BadRow:
    text: str
    problem: str


_Rows = Iterator[dict[str, Any] | _BadRow]


def read_rows(source: RowSource) -> Iterator[RawRow]:
    """Yield at most `source.max_rows` rows of a source, after the first `source.skip_rows`.

    Raises:
        DataError: The source cannot be read; names the file or the dataset, and what to do.
    """
    rows = _local_rows(source) if source.path else _hub_rows(source)
    return islice(rows, source.skip_rows, source.max_rows and source.skip_rows + source.max_rows)


def data_files(directory: Path) -> list[Path]:
    """Return the data files of a directory, or if it has none, those of the folders below it.

    Hidden files and folders, which macOS and snapshots of the hub create, are left out.
    """
    found = [file for file in _visible(directory.glob("*"), directory) if _ending(file) in ENDINGS]
    return sorted(found or (f for f in _visible(directory.rglob("*"), directory) if _ending(f) in ENDINGS))


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder was written by `Dataset.save_to_disk`."""
    return any((path / name).exists() for name in ("dataset_dict.json", "state.json"))


def _visible(files: Iterable[Path], directory: Path) -> Iterator[Path]:
    for file in files:
        hidden = any(part.startswith(".") for part in file.relative_to(directory).parts)
        if file.is_file() and not hidden and file.name not in _ABOUT_DATA:
            yield file


def _ending(file: Path) -> str:
    name = file.name
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return Path(name).suffix.lower()


def _local_rows(source: RowSource) -> Iterator[RawRow]:
    path = Path(str(source.path)).expanduser()
    if is_saved_dataset(path):
        yield from _saved_rows(path, source)
        return
    files = _files_of_split(path, source) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise DataError(f"{path}: there is no such file of data; set the `path` of its source")
    names = {file: str(file.relative_to(path)) if path.is_dir() else file.name for file in files}
    for file in files:
        for number, row in enumerate(_file_rows(file, source.split), start=1):
            yield _raw_row(f"{names[file]}:{number}", row)


def _raw_row(source: str, row: dict[str, Any] | _BadRow) -> RawRow:
    return RawRow(source, row.text, row.problem) if isinstance(row, _BadRow) else RawRow(source, row)


def _files_of_split(directory: Path, source: RowSource) -> list[Path]:
    """Return the files of the source's split; all files if their names do not name splits."""
    files = data_files(directory)
    splits = {file: _split_of(file.relative_to(directory)) for file in files}
    there = sorted({split for split in splits.values() if split})
    asked = "split" in source.model_fields_set
    if len(files) > 1 and not there and asked:
        raise DataError(
            f"{directory}: no file name contains a split, so the files of split {source.split!r} are unknown: "
            f"{', '.join(file.name for file in files[:5])}. Set `path` to one of the files, or leave `split` out to "
            "read them all"
        )
    if not there or (len(set(splits.values())) == 1 and not asked):
        return files
    if source.split not in there:
        raise DataError(
            f"{directory} has no files of split {source.split!r}: its splits are {', '.join(there)}; set `split`, or "
            "set `path` to one of the files"
        )
    return [file for file in files if splits[file] == source.split]


def _split_of(file: Path) -> str | None:
    """Return the split that the name of a file or of its folder contains; None if there is none."""
    stem = file.name
    for ending in (*COMPRESSIONS, *ENDINGS):
        stem = stem.removesuffix(ending)
    if shard := _SHARD.match(stem):
        return shard["split"]
    if whole := next((name for name in (stem, file.parent.name) if _SPLITS.match(name)), None):
        return whole
    words = _WORDS.search(stem) or _WORDS.search(file.parent.name)
    return words[1].lower() if words else None


def _saved_rows(path: Path, source: RowSource) -> Iterator[RawRow]:
    """Yield the rows of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    from datasets import Dataset, load_from_disk

    try:
        rows = load_from_disk(str(path))
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be opened with load_from_disk of datasets: {error}") from error
    name = path.name
    if not isinstance(rows, Dataset):
        if source.split not in rows:
            raise DataError(f"{path} has no split {source.split!r}: its splits are {', '.join(rows)}; set `split`")
        rows, name = rows[source.split], f"{name}/{source.split}"
    for number, row in enumerate(_dataset_rows(rows), start=1):
        yield _raw_row(f"{name}:{number}", row)


def _file_rows(file: Path, split: str) -> _Rows:
    ending = _ending(file)
    try:
        if ending == ".parquet":
            yield from _arrow_rows(pq.ParquetFile(file).iter_batches(batch_size=256))
        elif ending == ".arrow":
            yield from _arrow_rows(_arrow_batches(file))
        elif ending in (".csv", ".tsv"):
            with _open(file, newline="") as text:
                yield from _csv_rows(text)
        elif ending in (".json", ".jsonl"):
            with _open(file) as text:
                yield from _json_rows(text, file, split)
        else:
            raise DataError(f"{file}: only {', '.join(ENDINGS)} can be read, compressed or not; convert the file")
    except PermissionError as error:
        raise DataError(f"{file}: no permission to read it: {error}") from error
    except (pa.ArrowException, OSError, EOFError, UnicodeError, lzma.LZMAError) as error:
        raise DataError(f"{file} does not have the format of its extension: {error}") from error


def _open(file: Path, newline: str | None = None) -> IO[str]:
    """Open a text without its byte-order mark; bytes that are not UTF-8 become lone surrogates."""
    opener = next((opener for ending, opener in COMPRESSIONS.items() if file.name.endswith(ending)), None)
    buffered = io.BufferedReader(opener(file)) if opener else file.open("rb")
    encoding = "utf-16" if buffered.peek(2)[:2] in _BEGINNINGS_OF_UTF16 else "utf-8-sig"
    return io.TextIOWrapper(buffered, encoding=encoding, errors="surrogateescape", newline=newline)


def _arrow_batches(file: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file, or of a stream, as datasets writes it."""
    with pa.memory_map(str(file)) as stream:
        if stream.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(stream)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            stream.seek(0)
            yield from pa.ipc.open_stream(stream)


def _arrow_rows(batches: Iterable[pa.RecordBatch]) -> _Rows:
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError):  # bytes that are not UTF-8, dates that Python does not have: find the rows
            rows = [_arrow_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
        yield from rows


def _arrow_row(batch: pa.RecordBatch) -> dict[str, Any] | _BadRow:
    try:
        return batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return _BadRow("", f"the row cannot be read: {error}")


def _csv_rows(text: IO[str]) -> _Rows:
    """Yield the rows of a CSV file; its first line names the columns and shows the separator."""
    header = text.readline()
    lines = csv.reader(chain([header], text), delimiter=max(",\t;", key=header.count), strict=True)
    names = next(lines, [])
    while True:
        try:
            values = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield _BadRow("", f"line {lines.line_num} is not CSV: {error}")
            continue
        if len(values) == len(names):
            yield dict(zip(names, values, strict=True))
        elif values:
            problem = f"{len(values)} fields end in line {lines.line_num}, the header has {len(names)}"
            yield _BadRow(", ".join(values), problem)


def _json_rows(text: IO[str], file: Path, split: str) -> _Rows:
    """Yield the rows of a file that holds either JSON lines or one JSON value."""
    lines = (line for line in text if line.strip())
    first = next(lines, "")
    row = _parse(first)
    if isinstance(row, dict) and (second := next(lines, None)) is not None:
        yield row
        yield from map(_row_of_line, chain([second], lines))
    elif isinstance(row, dict) and _ending(file) == ".jsonl":
        yield row
    elif isinstance(row, dict | list) or first.strip() == "{" or first.lstrip().startswith("["):
        rest = list(lines)
        whole = _parse("".join([first, *rest])) if rest or row is None else row
        if whole is None:
            yield from map(_row_of_line, [first, *rest])
        else:
            yield from _rows_of_json(whole, file, split)
    else:
        yield from map(_row_of_line, chain([first] if first else [], lines))


def _rows_of_json(value: Any, file: Path, split: str) -> _Rows:
    """Yield the rows of a list, or of the only list of an object; of several lists, the one named after the split."""
    if isinstance(value, dict):
        lists = {name: rows for name, rows in value.items() if isinstance(rows, list)}
        value = lists.get(split) if len(lists) > 1 else next(iter(lists.values()), None)
    if not isinstance(value, list) or not any(isinstance(row, dict) for row in value):
        raise DataError(
            f"{file}: a JSON file of data holds one list of objects, by itself or under one key (if several "
            f"keys hold lists, under {split!r}, the split); pandas writes such a file with to_json(orient='records')"
        )
    for row in value:
        yield row if isinstance(row, dict) else _BadRow(json.dumps(row), RawRow.problem)


def _row_of_line(line: str) -> dict[str, Any] | _BadRow:
    row = _parse(line)
    return row if isinstance(row, dict) else _BadRow(line.rstrip("\n"), RawRow.problem)


def _parse(text: str) -> Any:
    """Return the value of a JSON text; None if it is not JSON, or too large or too deep for Python."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _hub_rows(source: RowSource) -> Iterator[RawRow]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(source.hub_id, source.subset, split=source.split, revision=source.revision)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the dataset {source.hub_id!r} (split {source.split!r}) cannot be loaded from the hub now: check the "
            f"name, log in with `hf auth login` if it is gated, or set `path` to a local copy ({error})"
        ) from error
    for number, row in enumerate(_dataset_rows(rows), start=1):
        yield _raw_row(f"{source.hub_id}/{source.split}:{number}", row)


def _dataset_rows(rows: Any) -> _Rows:
    """Yield the rows of a `datasets.Dataset`; images and sounds are not decoded."""
    for batch in rows.with_format("arrow").iter(batch_size=256):
        yield from _arrow_rows(batch.to_batches())
