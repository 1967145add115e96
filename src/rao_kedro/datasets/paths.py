"""Paths as Kedro datasets, for worker processes that read the data themselves."""

from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from kedro.io import AbstractVersionedDataset, DatasetError, Version
from kedro.io.core import get_filepath_str, get_protocol_and_path

from rao_kedro.datasets.remote import fetch


class PathDataset(AbstractVersionedDataset[Any, Path]):
    """Loads as the path of an existing file, for example `reward_annotated@path` beside `reward_annotated@pandas`.

    A remote file is downloaded into the user's cache directory, once for each of its states.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        credentials: dict[str, Any] | None = None,
        fs_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Point at a file or a directory.

        Args:
            filepath: Where it is; with a protocol such as `s3://` that fsspec knows, or on this machine.
            version: Of Kedro, where the catalog says `versioned: true`.
            credentials: Of the file system.
            fs_args: More arguments of the file system.
            metadata: Ignored here; kedro-viz reads it.
        """
        self._protocol, path = get_protocol_and_path(filepath, version)
        self._fs = fsspec.filesystem(self._protocol, **deepcopy(credentials or {}), **deepcopy(fs_args or {}))
        self.metadata = metadata
        super().__init__(PurePosixPath(path), version, exists_function=self._is_there, glob_function=self._fs.glob)

    def load(self) -> Path:
        """Return the path on this machine.

        Raises:
            DatasetError: It does not exist.
        """
        if not self._exists():
            raise DatasetError(f"{self._filepath} {self._missing()}")
        path = self._get_load_path()
        return Path(path) if self._protocol == "file" else fetch(self._fs, get_filepath_str(path, self._protocol))

    def save(self, data: Any) -> None:
        """Refuse to save: a path is only read.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError(f"a {type(self).__name__} is only read; the file is written by another dataset or a worker")

    def _missing(self) -> str:
        return "does not exist"

    def _is_there(self, path: str) -> bool:
        return bool(self._fs.exists(path))

    def _exists(self) -> bool:
        if self._protocol != "file":
            self._fs.invalidate_cache()
        return self._is_there(get_filepath_str(self._get_load_path(), self._protocol))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath, "protocol": self._protocol, "version": self._version}
