"""Directories, such as model checkpoints, as Kedro datasets: a node saves what a worker left, and loads a path.

The workspace keeps its model, without taking more disk: a node that is run again, say since a kill came before its next
output was saved, finds it there.
"""

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

from kedro.io import DatasetError
from kedro.io.core import get_filepath_str

from rao_kedro.datasets.paths import PathDataset
from rao_kedro.datasets.remote import put_directory
from rao_kedro.files import replacing_directory


class DirectoryDataset(PathDataset):
    """A directory that is complete if it holds a file that is written last. Workers open the files themselves.

    Attributes:
        marker: The name of that file.
    """

    marker: ClassVar[str] = "manifest.json"

    def save(self, data: Path) -> None:
        """Publish the finished directory `data`, which stays; a reader sees the old one or the new one.

        Weights are hard links, and copies where the file system has none. Elsewhere than on this machine a reader sees
        none while the files are put there.

        Raises:
            DatasetError: `data` is not complete.
        """
        if not (Path(data) / self.marker).exists():
            raise DatasetError(f"{data} is not complete: {self.marker} is missing")
        target = get_filepath_str(self._get_save_path(), self._protocol)
        if self._protocol != "file":
            put_directory(Path(data), self._fs, target, self.marker)
            return
        with replacing_directory(Path(target)) as partial:
            _copy_directory(Path(data), partial, Path(data).resolve())

    def _missing(self) -> str:
        return f"holds no {self.marker}"

    def _is_there(self, path: Any) -> bool:
        return bool(self._fs.exists(f"{path}/{self.marker}"))


class CheckpointDataset(DirectoryDataset):
    """A directory in Hugging Face's format: config.json, *.safetensors, tokenizer."""

    marker = "config.json"

    def _missing(self) -> str:
        return "holds no checkpoint (config.json is missing)"


def _copy_directory(source: Path, target: Path, whole: Path) -> None:
    """Link weights and copy the rest, without times and permissions, which not every file system keeps."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        copy, real = target / path.name, path.resolve()
        if path.is_dir():
            _copy_directory(path, copy, whole)
        elif path.is_symlink() and not real.is_relative_to(whole) and _linked(os.symlink, real, copy):
            continue
        elif not (path.suffix == ".safetensors" and _linked(os.link, real, copy)):
            shutil.copyfile(path, copy)


def _linked(link: Any, source: Path, target: Path) -> bool:
    """Return whether the file system makes such links: else the file is copied, which fails if the disk is full."""
    try:
        link(source, target)
    except OSError:
        return False
    return True
