"""Columns of a table of groups without its texts and tokens, as a data frame for reports: some bytes per response."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rao_kedro.data.table_files import open_table, read_batches


def read_narrow(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a table; their values stay in Arrow's memory.

    Args:
        path: Parquet of `TokenizedGroupTable` or a table with more columns.
        columns: Names of columns. `response_lengths` stands for the tokens of each response that the assistant writes.
    """
    with open_table(path) as file:
        empty = _narrow(pa.RecordBatch.from_pylist([], schema=file.schema_arrow), columns)
    table = pa.Table.from_batches(read_narrow_batches(path, columns), schema=empty.schema)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def read_narrow_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a table in batches; see `read_narrow`."""
    read = [name for name in columns if name != "response_lengths"]
    if len(read) < len(columns):
        with open_table(path) as file:
            read += ["response_ids", *(["learned"] if "learned" in file.schema_arrow.names else [])]
    for batch in read_batches(path, read):
        yield _narrow(batch, columns)


def _narrow(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    arrays = {name: _lengths(batch) if name == "response_lengths" else batch.column(name) for name in columns}
    return pa.RecordBatch.from_pydict(arrays)


def _lengths(batch: pa.RecordBatch) -> pa.ListArray:
    """Count the tokens of each response, or those that are learned, where a response has several turns."""
    ids = batch.column("response_ids")
    sizes = pc.list_value_length(ids).to_numpy(zero_copy_only=False)
    lengths: Any = pc.list_value_length(pc.list_flatten(ids))
    if "learned" in batch.schema.names and (learned := batch.column("learned")).null_count < len(learned):
        masks = pc.list_flatten(learned)
        ends = np.cumsum([0, *pc.list_value_length(masks).to_pylist()])
        counted = np.cumsum(np.append(0, pc.list_flatten(masks).to_numpy(zero_copy_only=False)))
        lengths = lengths.to_numpy(zero_copy_only=False).copy()
        lengths[np.repeat(learned.is_valid().to_numpy(zero_copy_only=False), sizes)] = np.diff(counted[ends])
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *sizes]), pa.int32()), pa.array(lengths))
