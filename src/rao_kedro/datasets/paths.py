"""Paths as Kedro datasets: what a worker process needs instead of the data itself."""

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class PathDataset(AbstractDataset[Any, Path]):
    """Loads as the path of an existing file, for example `reward_annotated@path` beside `reward_annotated@pandas`."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Point at a file or a directory.

        Args:
            filepath: Where it is.
            metadata: Ignored here; kedro-viz reads it.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Return the path.

        Raises:
            DatasetError: It does not exist.
        """
        if not self._exists():
            raise DatasetError(f"{self._filepath} does not exist")
        return self._filepath

    def save(self, data: Any) -> None:
        """Refuse: a path is only read.

        Raises:
            DatasetError: Always.
        """
        raise DatasetError(f"a {type(self).__name__} is only read; the file is written by another dataset or a worker")

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class WorkspaceDataset(PathDataset):
    """A directory for a worker's own resumable state; created when it is first loaded."""

    def load(self) -> Path:
        """Return the directory, creating it if needed."""
        self._filepath.mkdir(parents=True, exist_ok=True)
        return self._filepath

    def _exists(self) -> bool:
        return True
