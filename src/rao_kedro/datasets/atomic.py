"""Kedro's own datasets with atomic writes: a file is written whole or not at all.

A local file is written beside its place and renamed. A remote file is written here first and uploaded at once. Several
threads may save at the same time: unlike a transaction of a file system, nothing is shared.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kedro_datasets.json
import kedro_datasets.pandas
import kedro_datasets.partitions
import kedro_datasets.text
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_compression

from rao_kedro.files import replacing, replacing_directory

# Arguments that `open` of every file system takes; the others are for the remote file system.
OPEN_ARGUMENTS = ("encoding", "errors", "newline", "compression")


class AtomicFiles:
    """A file system in which a file appears once it is written; everything but `open` is the wrapped file system's."""

    def __init__(self, fs: AbstractFileSystem) -> None:
        """Wrap a file system."""
        self.wrapped = fs

    def __getattr__(self, name: str) -> Any:
        if name == "wrapped" or name.startswith("__"):  # asked for while the object is copied, before it has attributes
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    @contextmanager
    def open(self, path: str, mode: str = "rb", **arguments: Any) -> Iterator[Any]:
        """Open a file; after a failure nothing of a written file is left."""
        if "w" not in mode:
            with self.wrapped.open(path, mode, **arguments) as file:
                yield file
            return
        if arguments.get("compression") == "infer":
            arguments["compression"] = infer_compression(path)
        if isinstance(self.wrapped, LocalFileSystem):
            target = Path(os.path.realpath(path))  # which may be on another disk
            with replacing(target) as partial, self.wrapped.open(str(partial), mode, **arguments) as file:
                yield file
            return
        here = {name: arguments.pop(name) for name in OPEN_ARGUMENTS if name in arguments}
        with tempfile.TemporaryDirectory() as directory:
            partial = Path(directory) / "partial"
            with LocalFileSystem().open(str(partial), mode, **here) as file:
                yield file
            self.wrapped.put_file(str(partial), path, **arguments)


class AtomicWrites:
    """A base class that stands before a dataset of Kedro's which writes with `self._fs.open`."""

    @property
    def _fs(self) -> AtomicFiles:
        return self.__dict__["_atomic_files"]

    @_fs.setter
    def _fs(self, fs: AbstractFileSystem) -> None:
        self.__dict__["_atomic_files"] = AtomicFiles(fs)


class CSVDataset(AtomicWrites, kedro_datasets.pandas.CSVDataset):
    """`pandas.CSVDataset`, written whole or not at all."""


class JSONDataset(AtomicWrites, kedro_datasets.json.JSONDataset):
    """`json.JSONDataset`, written whole or not at all."""


class TextDataset(AtomicWrites, kedro_datasets.text.TextDataset):
    """`text.TextDataset`, written whole or not at all."""


class PartitionedDataset(kedro_datasets.partitions.PartitionedDataset):
    """`partitions.PartitionedDataset`, except that `overwrite` removes nothing before all partitions are written."""

    def save(self, data: dict[str, Any]) -> None:
        """Write the partitions; with `overwrite` a reader sees the old ones or the new ones.

        On a remote file system the new partitions are uploaded one by one, and then the others are removed.
        """
        if not self._overwrite:
            super().save(data)
        elif self._protocol == "file":
            with replacing_directory(Path(self._filesystem._strip_protocol(self._path))) as partial:
                self._copy(_path=str(partial), _overwrite=False).save(data)
        else:
            self._copy(_overwrite=False).save(data)
            self._invalidate_caches()
            for path in self._list_partitions():
                if self._path_to_partition(path) not in data:
                    self._filesystem.rm(path)
        self._invalidate_caches()
