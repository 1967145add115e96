"""A parquet table that is written whole or not at all, and whose preview shows chats and token ids as text."""

import json
from typing import Any

import pyarrow.parquet as pq
from kedro.io.core import get_filepath_str
from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import ParquetDataset

from rao_kedro.datasets.atomic import AtomicWrites

PREVIEW_CHARACTERS = 200


class TableDataset(AtomicWrites, ParquetDataset):
    """`pandas.ParquetDataset` with atomic writes, and with a preview that shows any column."""

    def preview(self, nrows: int = 10) -> TablePreview:
        """Return the first rows; nested values are shown as JSON, cut at 200 characters."""
        with self._fs.open(get_filepath_str(self._get_load_path(), self._protocol), "rb") as file:
            return preview_table(file, nrows)


def preview_table(file: Any, nrows: int) -> TablePreview:
    """Return the first rows of an open parquet file; nested values are shown as JSON, cut at 200 characters."""
    parquet = pq.ParquetFile(file)
    batch = next(parquet.iter_batches(batch_size=nrows), None)
    rows = [] if batch is None else batch.to_pylist()
    columns = parquet.schema_arrow.names
    return TablePreview(
        {
            "index": list(range(len(rows))),
            "columns": columns,
            "data": [[_shown(row[column]) for column in columns] for row in rows],
        }
    )


def _shown(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and len(value) > PREVIEW_CHARACTERS:
        return value[:PREVIEW_CHARACTERS] + " ..."
    return value
