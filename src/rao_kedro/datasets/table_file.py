"""Tables that grow with the data, as Kedro datasets: nodes pass their paths on and read them in batches."""

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

from kedro.io import DatasetError
from kedro.io.core import get_filepath_str
from kedro_datasets._typing import TablePreview

from rao_kedro.data.digests import DigestSet, digest
from rao_kedro.data.table_files import open_table, read_batches
from rao_kedro.datasets.paths import PathDataset
from rao_kedro.datasets.table import preview_table
from rao_kedro.errors import DataError, RaoKedroError
from rao_kedro.files import replacing


class TableFileDataset(PathDataset):
    """A parquet table: `load` returns its path, and `save` moves a finished table, for example a workspace's, there.

    `rao_kedro.data.table_files` reads it in batches. A remote table is fetched into the user's cache when it is loaded.
    """

    def save(self, data: Path) -> None:
        """Move the table `data` to the dataset's place; a reader sees the old table or the new one.

        Raises:
            DatasetError: `data` is no parquet table.
        """
        source = Path(data)
        try:
            open_table(source).close()
        except (OSError, RaoKedroError) as error:
            raise DatasetError(f"{self._filepath} cannot be saved: {error}") from error
        target = get_filepath_str(self._get_save_path(), self._protocol)
        if self._protocol != "file":
            self._fs.put_file(str(source), target)
            self._fs.invalidate_cache()
            source.unlink()
        elif (place := Path(os.path.realpath(target))) != source.resolve():  # which may be on another disk
            with replacing(place) as partial:
                shutil.move(source, partial)

    def preview(self, nrows: int = 10) -> TablePreview:
        """Return the first rows; nested values are shown as JSON, cut at 200 characters."""
        with self._fs.open(get_filepath_str(self._get_load_path(), self._protocol), "rb") as file:
            return preview_table(file, nrows)


class TableFileValidator:
    """A validator of Kedro's for `TableFileDataset`: checks a table's schema batch by batch.

    A table that was checked in this process is not read again until it changes.
    """

    def __init__(self, table: str) -> None:
        """Choose the schema.

        Args:
            table: The module and the name of a pandera model, such as `rao_kedro.data.tables.PreferenceGroupTable`.
        """
        module, _, name = table.rpartition(".")
        self.model: Any = getattr(importlib.import_module(module), name)
        self._checked: set[tuple[Any, ...]] = set()

    def validate(self, data: Path) -> Path:
        """Return the path of a table that fits the schema.

        Raises:
            DataError: The file is no parquet table, or a value that must be unique occurs twice.
            SchemaErrors: The table does not fit; names the column, the check and the first bad values.
        """
        state = Path(data).stat()
        key = (state.st_ino, state.st_size, state.st_mtime_ns)  # those of a table that is moved stay
        if key not in self._checked:
            self._check(Path(data))
            self._checked = {*self._checked, key}
        return data

    def _check(self, path: Path) -> None:
        schema = self.model.to_schema()
        unique = [name for name, column in schema.columns.items() if column.unique]
        seen = {name: DigestSet() for name in unique}
        with open_table(path) as file:
            self.model.validate(file.schema_arrow.empty_table().to_pandas(), lazy=True)  # a table may have no batch
        for batch in read_batches(path):
            table = batch.to_pandas()
            self.model.validate(table, lazy=True)
            for name in unique:
                for value in table[name]:
                    if not seen[name].add(digest(str(value))):
                        raise DataError(f"{path}: {name} {value} occurs twice, and must be unique")
