"""Atomic replacement on disk: a reader sees the old thing or the new one. Knows nothing of what is in them."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rao_kedro.errors import TrainingError


def replace_directory(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing what is there."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, beside and renamed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


@contextmanager
def only_one_in(directory: Path) -> Iterator[None]:
    """Keep other processes out of a directory that they ask for in the same way, until the end or this process's death.

    Raises:
        TrainingError: Another process is in it.
    """
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(f"another run is at work in {directory}: wait for it, or stop it") from error
        yield
