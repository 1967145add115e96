"""SIGTERM, as a scheduler sends it to a job that it takes the machine from: remembered until a step is finished."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator


class Interruption:
    """While entered, SIGTERM is remembered instead of ending the process."""

    def __init__(self) -> None:
        """Start without having seen it."""
        self.seen = False
        self.before: Any = None

    def __enter__(self) -> "Interruption":
        """Take over SIGTERM, where Python lets us: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._remember)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give SIGTERM back."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.seen = True

    def requested(self, accelerator: Accelerator) -> bool:
        """Return whether any process got the signal; all processes call this at the same step."""
        if accelerator.num_processes == 1:
            return self.seen
        return bool(accelerator.reduce(torch.tensor(float(self.seen), device=accelerator.device), reduction="sum"))
