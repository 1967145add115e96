"""Atomic replacement on disk, where a reader sees the old thing or the new one, and locks of directories.

Knows nothing of what is in them.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import ParamSpec, TypeVar

from rao_kedro.errors import BusyError

P = ParamSpec("P")
T = TypeVar("T")


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
    """Write `text` to `path`, beside and renamed; several may write the same file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


@contextmanager
def only_one_in(directory: Path, role: str = "worker") -> Iterator[None]:
    """Keep others out of a directory that they ask for in the same role, until the end or this process's death.

    Args:
        directory: Where.
        role: A worker, which may outlive the launcher that started it; the launcher; or the node around it.

    Raises:
        BusyError: Another one is in it.
    """
    with (directory / f".{role}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(f"another run is at work in {directory}: wait for it, or stop it") from error
        yield


def alone_in_workspace(node: Callable[P, T]) -> Callable[P, T]:
    """Let a node have its parameter `workspace`, a directory, for itself.

    For nodes that write into it themselves; launchers and workers take locks of their own.
    """

    @wraps(node)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        workspace: Path = signature(node).bind(*args, **kwargs).arguments["workspace"]
        with only_one_in(workspace, "node"):
            return node(*args, **kwargs)

    return alone
