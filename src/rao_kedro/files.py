"""Atomic replacement on disk, where a reader sees the old thing or the new one, and locks of directories.

A link to a directory is followed: what it points to is replaced, and the link stays. A link to a file is replaced: an
imported checkpoint is made of links to files that belong to somebody else. Knows nothing of what is in the files.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.errors import BusyError

if TYPE_CHECKING:
    import pandas as pd


def replace_directory(source: Path, target: Path) -> None:
    """Rename `source`, which lies beside `target` (see `beside`), to it, replacing what is there."""
    target = Path(os.path.realpath(target))
    old = beside(target, "old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replacing_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory to fill in place of `target`, which it becomes at the end, and not where that fails.

    Several may write the same directory: each waits for the one before, and the last one stays.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        partial = beside(target, "partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        replace_directory(partial, target)


def beside(target: Path, suffix: str) -> Path:
    """Return a name beside what `target` is, or points to if it is a link: on the same file system."""
    target = Path(os.path.realpath(target))
    return target.with_name(f"{target.name}.{suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden file to write in place of `path`, which it becomes at the end, and not where that fails.

    Several may write the same file: the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, beside and renamed."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_parquet(path: Path, table: "pd.DataFrame") -> None:
    """Write a table to `path`, beside and renamed."""
    with replacing(path) as partial:
        table.to_parquet(partial)


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
