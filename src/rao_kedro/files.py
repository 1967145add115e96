"""Atomic writes, where a reader sees the old file or directory or the new one, and locks of directories.

A link to a directory is followed: the directory it points to is replaced, and the link stays. A link to a file is
replaced: an imported checkpoint consists of links to files that belong to somebody else. Knows nothing of the content.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rao_kedro.errors import BusyError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@contextmanager
def waiting_for_others(lock_path: Path) -> Iterator[None]:
    """Hold a lock until the end of the block; who comes later waits. Its empty file stays."""
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def replacing_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory to fill, which replaces `target` at the end; if the block fails, `target` stays.

    Writers of the same directory wait for each other, and the last one wins.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with waiting_for_others(target.with_name(f".{target.name}.lock")):
        partial, old = (target.with_name(f"{target.name}.{suffix}") for suffix in ("partial", "old"))
        _restore(old, target)  # a writer may have been killed before, at any line below
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            if target.exists():
                os.replace(target, old)
            os.replace(partial, target)
        finally:
            _restore(old, target)
            shutil.rmtree(partial, ignore_errors=True)


def _restore(old: Path, target: Path) -> None:
    """Move the old directory back where no new one has taken its place; remove it otherwise."""
    if old.exists() and not target.exists():
        os.replace(old, target)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden file to write, which replaces `path` at the end; if the block fails, `path` stays.

    Several processes may write the same file, from several machines too: the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> Path:
    """Replace the file `target` by a hard link to `source`, or by a copy where there are none; return `target`."""
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)
    return target


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file `path` by one with this content."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by one with this text."""
    write_bytes(path, text.encode())


def write_parquet(path: Path, table: "pd.DataFrame | pa.Table") -> None:
    """Replace the file `path` by a parquet file of this table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with replacing(path) as partial:
        if isinstance(table, pa.Table):
            pq.write_table(table, partial)
        else:
            table.to_parquet(partial)


@contextmanager
def only_one_in(directory: Path, role: str = "worker", wait: bool = False) -> Iterator[None]:
    """Lock a directory against others in the same role until the end of the block, or until this process dies.

    Args:
        directory: The directory, which must exist.
        role: "worker", which may outlive the launcher that started it; "launcher"; or "node", around both.
        wait: Wait until nobody else holds the lock.

    Raises:
        BusyError: Somebody else holds the lock, and it is not waited for.
    """
    with (directory / f".{role}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise BusyError(f"another run is at work in {directory}: wait for it, or stop it") from error
        yield
