"""Directories, such as model checkpoints, as Kedro datasets: a worker's directory is published, and its path loaded.

The worker's own copy stays, and weights are hard links, so that it takes no more disk: a node that was killed between
its outputs finds the model when it runs again.
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
    """A directory that is complete if it holds its marker, a file that is written last. Workers open the files.

    Attributes:
        marker: The name of the marker.
    """

    marker: ClassVar[str] = "manifest.json"

    def save(self, data: Path) -> None:
        """Publish the finished directory `data`, which stays; a reader sees the old one or the new one.

        Weights are hard links, or copies where the file system has no links. On a remote file system a reader sees no
        directory while the files are uploaded.

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
    """Link weights and copy the rest, without times and permissions, which some file systems do not keep."""
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
    """Make a link, and return whether the file system has such links."""
    try:
        link(source, target)
    except OSError:
        return False
    return True
