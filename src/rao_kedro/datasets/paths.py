"""Paths as Kedro datasets: what a worker process needs instead of the data itself."""

from copy import deepcopy
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from kedro.io import AbstractDataset, AbstractVersionedDataset, DatasetError, Version
from kedro.io.core import get_filepath_str, get_protocol_and_path

from rao_kedro.datasets.remote import fetch


class PathDataset(AbstractVersionedDataset[Any, Path]):
    """Loads as the path of an existing file, for example `reward_annotated@path` beside `reward_annotated@pandas`.

    What is elsewhere is copied to the user's cache directory, once for each state in which it is found there.
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
        """Refuse: a path is only read.

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


class WorkspaceDataset(AbstractDataset[Any, Path]):
    """A directory for a worker's own resumable state, on this machine; created when it is first loaded."""

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Point at a directory.

        Args:
            filepath: Where it is.
            version: Refused.
            credentials: Refused.
            metadata: Ignored here; kedro-viz reads it.

        Raises:
            DatasetError: It is not on this machine, or kept in versions.
        """
        if problem := workspace_problem(filepath, version is not None, credentials is not None):
            raise DatasetError(problem)
        self._filepath = Path(get_protocol_and_path(filepath)[1])
        self.metadata = metadata

    def load(self) -> Path:
        """Return the directory, creating it if needed."""
        self._filepath.mkdir(parents=True, exist_ok=True)
        return self._filepath

    def save(self, data: Any) -> None:
        """Refuse: a worker writes into it.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError("a WorkspaceDataset is only read; a worker writes into the directory")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._filepath}


def workspace_problem(filepath: str, versioned: bool, credentials: bool) -> str | None:
    """Return what is wrong with the location of a workspace, if anything."""
    if get_protocol_and_path(filepath)[0] != "file":
        return (
            f"{filepath} is not on this machine, and workers write into a workspace file by file: give it a local "
            "`filepath` (for all of them at once, set `workspaces` in globals.yml)"
        )
    if versioned:
        return f"{filepath} is a workspace, which one run leaves to the next: it has no versions, leave `versioned` out"
    return f"{filepath} is on this machine and needs no credentials: leave them out" if credentials else None
