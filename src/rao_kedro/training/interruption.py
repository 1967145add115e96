"""Lets a run finish its step after SIGTERM, which schedulers send before they take a machine away."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator


class Interruption:
    """A context in which SIGTERM is noted instead of ending the process."""

    def __init__(self) -> None:
        """Start without a signal."""
        self.seen = False
        self.before: Any = None

    def __enter__(self) -> "Interruption":
        """Handle SIGTERM; Python allows that in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Restore the handler of SIGTERM."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.seen = True

    def requested(self, accelerator: Accelerator) -> bool:
        """Return whether any process got the signal. Every process calls this at the same step."""
        if accelerator.num_processes == 1:
            return self.seen
        return bool(accelerator.reduce(torch.tensor(float(self.seen), device=accelerator.device), reduction="sum"))
