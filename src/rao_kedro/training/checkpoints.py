"""Checkpoints of a run: written atomically, checked by their hashes before they are loaded.

A kill at any moment leaves the previous checkpoint intact. A damaged checkpoint is skipped for the one before it.
"""

import json
import logging
import re
import shutil
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from rao_kedro.errors import TrainingError
from rao_kedro.identity import file_hash

logger = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
MANIFEST = "manifest.json"


class Checkpoints:
    """Saves and loads the model, optimizer, schedule, random state and step."""

    def __init__(self, accelerator: Accelerator, workspace: Path, keep: int) -> None:
        """Keep the last `keep` checkpoints of the run in `workspace/checkpoints`."""
        self.accelerator, self.keep = accelerator, keep
        self.directory = workspace / DIRECTORY

    def resume(self) -> tuple[int, float | None]:
        """Load the newest intact checkpoint, if any; return its step and the best evaluation score so far."""
        found: list[str | None] = [None]
        if self.accelerator.is_main_process:
            found = [self._newest_intact()]
        (name,) = broadcast_object_list(found)
        if name is None:
            return 0, None
        self.accelerator.load_state(str(self.directory / name))
        manifest = json.loads((self.directory / name / MANIFEST).read_text())
        return manifest["step"], manifest["best"]

    def save(self, step: int, best: float | None) -> None:
        """Write a checkpoint, and remove the oldest.

        Raises:
            TrainingError: It could not be written; earlier ones are intact.
        """
        target = self.directory / f"step-{step:09d}"
        partial = target.with_name(target.name + ".partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(partial))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._seal(partial, step, best)
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"the checkpoint of step {step} could not be written ({error}). If the disk is full, make room first. "
                f"The same command resumes from the earlier checkpoints in {self.directory}"
            ) from error
        if self.accelerator.is_main_process:
            for old in self._newest_first()[self.keep :]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _newest_first(self) -> list[Path]:
        found = (path for path in self.directory.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
        return sorted(found, reverse=True)

    def _newest_intact(self) -> str | None:
        for path in self._newest_first():
            if (problem := _problem(path)) is None:
                return path.name
            logger.warning("skipped checkpoint %s: %s", path, problem)
        return None

    def _seal(self, directory: Path, step: int, best: float | None) -> None:
        """Write the manifest, last: step, best score and the hash of every file."""
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(directory)): file_hash(path).hex() for path in files}
        manifest = {"step": step, "best": best, "files": hashes}
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _problem(directory: Path) -> str | None:
    """Return what is wrong with a checkpoint; None if it is intact."""
    try:
        files = json.loads((directory / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return "its manifest cannot be read"
    for name, expected in files.items():
        path = directory / name
        if not path.exists():
            return f"{name} is missing"
        if file_hash(path).hex() != expected:
            return f"{name} has changed since it was written"
    return None
