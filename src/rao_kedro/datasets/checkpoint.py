"""A model checkpoint as a Kedro dataset: loads as a path, saves what a worker left in its workspace.

The workspace keeps its model, without taking more disk: a node that is run again, say since a kill came before its next
output was saved, finds it there.
"""

import errno
import os
import shutil
from pathlib import Path

from kedro.io import DatasetError

from rao_kedro.datasets.paths import PathDataset
from rao_kedro.files import replace_directory


class CheckpointDataset(PathDataset):
    """A directory in Hugging Face's format: config.json, *.safetensors, tokenizer.

    Workers open it themselves, so that no model travels through the pipeline's process.
    """

    def load(self) -> Path:
        """Return the directory.

        Raises:
            DatasetError: There is no checkpoint.
        """
        if not self._exists():
            raise DatasetError(f"{self._filepath} holds no checkpoint (config.json is missing)")
        return self._filepath

    def save(self, data: Path) -> None:
        """Publish the finished directory `data`, which stays; a reader sees the old checkpoint or the new one.

        Weights are hard links, and copies where the file system has none.

        Raises:
            DatasetError: `data` is not a checkpoint.
        """
        if not (Path(data) / "config.json").exists():
            raise DatasetError(f"{data} is not a checkpoint: config.json is missing")
        partial = self._filepath.with_name(self._filepath.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(data, partial, symlinks=True, copy_function=_link_weights)
        replace_directory(partial, self._filepath)

    def _exists(self) -> bool:
        return (self._filepath / "config.json").exists()


def _link_weights(source: str, target: str) -> None:
    """Link weights, which nobody edits in place, and copy small files, which people do."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS):
                raise
    shutil.copy2(source, target)
