"""Checkpoints of a run in its workspace: written beside and renamed, so that a kill leaves the last good one."""

import json
import shutil
from pathlib import Path

from accelerate import Accelerator

from rao_kedro.files import replace_directory


class Checkpoints:
    """Saves and resumes model, optimizer, schedule, RNG and data position."""

    def __init__(self, accelerator: Accelerator, workspace: Path) -> None:
        """Keep the checkpoint of the run in `workspace/checkpoint`."""
        self.accelerator = accelerator
        self.directory = workspace / "checkpoint"

    def resume(self) -> tuple[int, float | None]:
        """Load the last checkpoint, if any; return its step and the best evaluation score so far."""
        state = self.directory / "progress.json"
        if not state.exists():
            return 0, None
        self.accelerator.load_state(str(self.directory))
        progress = json.loads(state.read_text())
        return progress["step"], progress["best"]

    def save(self, step: int, best: float | None) -> None:
        """Write a checkpoint and let it replace the one before."""
        partial = self.directory.with_name("checkpoint.partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        if self.accelerator.is_main_process:
            (partial / "progress.json").write_text(json.dumps({"step": step, "best": best}))
            replace_directory(partial, self.directory)
        self.accelerator.wait_for_everyone()

    def discard(self) -> None:
        """Remove the checkpoint of a finished run."""
        if self.accelerator.is_main_process:
            shutil.rmtree(self.directory, ignore_errors=True)
