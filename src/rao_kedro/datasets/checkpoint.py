"""A model checkpoint as a Kedro dataset: loads as a path, saves by renaming a finished directory into place."""

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
        """Move the finished directory `data` into place; a reader sees the old checkpoint or the new one.

        Raises:
            DatasetError: `data` is not a checkpoint.
        """
        if not (Path(data) / "config.json").exists():
            raise DatasetError(f"{data} is not a checkpoint: config.json is missing")
        replace_directory(Path(data), self._filepath)

    def _exists(self) -> bool:
        return (self._filepath / "config.json").exists()
