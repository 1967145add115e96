"""A parquet table whose write is atomic and whose preview shows chats and token ids as text."""

import json
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from kedro_datasets._typing import TablePreview
from kedro_datasets.pandas import ParquetDataset

PREVIEW_CHARACTERS = 200


class TableDataset(ParquetDataset):
    """`pandas.ParquetDataset`, except that a killed run leaves the old table, and that any column can be previewed."""

    def save(self, data: pd.DataFrame) -> None:
        """Write beside and rename."""
        with self._fs.transaction:
            super().save(data)

    def preview(self, nrows: int = 10) -> TablePreview:
        """Return the first rows; nested values as JSON, cut at 200 characters."""
        parquet = pq.ParquetFile(str(self._get_load_path()))
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
