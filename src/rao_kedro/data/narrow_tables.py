"""Columns of a table of groups without its texts and tokens, as a data frame for reports: some bytes per response."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rao_kedro.data.table_files import open_table, read_batches


def read_narrow(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a table; their values stay in Arrow's memory.

    Args:
        path: Parquet of `TokenizedGroupTable` or a table with more columns.
        columns: Names of columns. `response_lengths` stands for the tokens of each response.
    """
    read = ["response_ids" if name == "response_lengths" else name for name in columns]
    batches = (_lengths(batch) for batch in read_batches(path, read))
    with open_table(path) as file:
        empty = _lengths(pa.RecordBatch.from_pylist([], schema=file.schema_arrow).select(read))
    table = pa.Table.from_batches(batches, schema=empty.schema)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _lengths(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Replace the tokens of responses by their number."""
    at = batch.schema.get_field_index("response_ids")
    if at < 0:
        return batch
    ids = batch.column(at)
    lengths = pc.list_value_length(pc.list_flatten(ids))
    offsets = pa.array([0, *pc.cumulative_sum(pc.list_value_length(ids)).to_pylist()], pa.int32())
    arrays = {name: batch.column(name) for name in batch.schema.names}
    arrays = {name: array for name, array in arrays.items() if name != "response_ids"}
    return pa.RecordBatch.from_pydict(arrays | {"response_lengths": pa.ListArray.from_arrays(offsets, lengths)})
