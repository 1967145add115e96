"""Parquet tables that grow with the data: written and read in batches, so that memory does not grow with the rows.

Nodes pass the paths of such tables on. A table appears whole or not at all. Imports no pandas.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rao_kedro.errors import DataError
from rao_kedro.files import replacing

BATCH = 512  # rows that are in memory at once: a row of a group may hold a hundred kilobytes


class TableWriter:
    """Writes a parquet table row by row or in batches; use it in a `with` statement.

    The file replaces `path` at the end of the block. If the block fails, `path` stays as it was.

    Attributes:
        path: The file.
        schema: The Arrow schema of all batches.
        rows: Rows written so far.
    """

    def __init__(self, path: Path, schema: pa.Schema, batch: int = BATCH) -> None:
        """Prepare a table.

        Args:
            path: The file to write.
            schema: Names and types of the columns.
            batch: Rows that are written together.
        """
        self.path, self.schema, self.rows = path, schema, 0
        self._batch, self._names = batch, set(schema.names)
        self._waiting: list[Mapping[str, Any]] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        partial = self._open.enter_context(replacing(self.path))
        try:
            # Statistics hold the first and last texts of every row group, and stay in memory until the file is closed.
            self._file = pq.ParquetWriter(partial, self.schema, write_statistics=False)
        except BaseException as error:
            self._open.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._file.close()
        except BaseException as failure:
            self._open.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._open.__exit__(kind, error, trace)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            DataError: It does not have exactly the columns of the schema, or an earlier one has values of other types.
        """
        if row.keys() != self._names:
            wrong = ", ".join(sorted(row.keys() ^ self._names))
            raise DataError(f"{self.path}: a row and the table's schema differ in the columns {wrong}")
        self._waiting.append(row)
        self.rows += 1
        if len(self._waiting) >= self._batch:
            self._flush()

    def write_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows."""
        for row in rows:
            self.write(row)

    def write_batch(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows as an Arrow batch or table with the columns of the schema, in any order and of types that fit."""
        self._flush()
        self.rows += batch.num_rows
        if batch.num_rows:
            columns = [batch.column(field.name).cast(field.type) for field in self.schema]
            self._file.write_table(pa.table(columns, schema=self.schema))

    def _flush(self) -> None:
        if self._waiting:
            try:
                batch = pa.RecordBatch.from_pylist(self._waiting, schema=self.schema)
            except (pa.ArrowException, UnicodeError, OverflowError) as error:
                raise DataError(f"{self.path}: a row does not fit the table's schema: {error}") from error
            self._file.write_batch(batch)
            self._waiting = []


def read_batches(
    path: Path,
    columns: Sequence[str] | None = None,
    batch: int = BATCH,
    where: tuple[str, Collection[str]] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield a table in batches, in the order of its rows.

    Args:
        path: A parquet file.
        columns: The columns to read, in this order; None reads all.
        batch: The maximum number of rows in a batch.
        where: A column, and the values of the rows to read, as in `("split", ["test"])`; None reads all rows.

    Raises:
        DataError: The file is no parquet table, or lacks a column.
    """
    with open_table(path) as file:
        names = file.schema_arrow.names if columns is None else list(columns)
        needed = [*names, *([where[0]] if where and where[0] not in names else [])]
        if absent := [name for name in needed if name not in file.schema_arrow.names]:
            has = ", ".join(file.schema_arrow.names)
            raise DataError(f"{path} has no column {', '.join(absent)}; its columns are {has}")
        for part in range(file.num_row_groups):  # an iteration over several keeps those that it has passed in memory
            # Most rows that are not wanted stand together: their other columns are not read.
            if where is not None and not pc.any(_is_in(file.read_row_group(part, [where[0]]), where)).as_py():
                continue
            for found in file.iter_batches(batch_size=batch, row_groups=[part], columns=needed, use_threads=False):
                if where is not None:
                    found = found.filter(_is_in(found, where))
                if found.num_rows:
                    yield found.select(names)


def _is_in(rows: pa.RecordBatch | pa.Table, where: tuple[str, Collection[str]]) -> pa.Array:
    return pc.is_in(rows.column(where[0]), pa.array(list(where[1]), pa.string()))


def read_rows(
    path: Path, columns: Sequence[str] | None = None, where: tuple[str, Collection[str]] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as dictionaries; the arguments are those of `read_batches`."""
    for found in read_batches(path, columns, where=where):
        yield from found.to_pylist()


def count_rows(path: Path) -> int:
    """Return the number of rows of a table, from its footer.

    Raises:
        DataError: The file is no parquet table.
    """
    with open_table(path) as file:
        return int(file.metadata.num_rows)


def count_values(path: Path, columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """Return how often each combination of values of some columns occurs, in the order of their first rows."""
    counts: Counter[tuple[Any, ...]] = Counter()
    for found in read_batches(path, columns):
        counts.update(zip(*(found.column(name).to_pylist() for name in columns), strict=True))
    return counts


def require_room(directory: Path, needed: float, what: str) -> None:
    """Refuse work whose tables do not fit on the disk, before it begins.

    Args:
        directory: Where the tables will be written.
        needed: Bytes that they take at least.
        what: The work, for the error.

    Raises:
        DataError: The disk has less free space.
    """
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise DataError(
            f"{directory} has {free / 1e9:.1f} GB free, and {what} writes tables of {needed / 1e9:.1f} GB at least: "
            "make room, or set data_root (and workspaces) in globals to another disk"
        )


def open_table(path: Path) -> pq.ParquetFile:
    """Open a parquet file, which reads its footer.

    Raises:
        DataError: The file is no parquet table.
    """
    try:
        return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a parquet table: {error}") from error


def rewrite(
    source: Path, target: Path, schema: pa.Schema, change: Callable[[pa.RecordBatch], pa.RecordBatch | pa.Table]
) -> int:
    """Write a table with the changed batches of another, and return the number of its rows.

    Args:
        source: The table to read.
        target: The table to write; it may be the same file.
        schema: The schema of the changed batches.
        change: Returns the changed batch; it may have fewer rows.
    """
    with TableWriter(target, schema) as writer:
        for batch in read_batches(source):
            writer.write_batch(change(batch))
    return writer.rows
