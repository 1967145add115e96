"""Copies between this machine, where workers read and write, and the other file systems that fsspec knows."""

import os
import shutil
from pathlib import Path, PurePosixPath

from fsspec import AbstractFileSystem

from rao_kedro.models.identity import combined_hash


def fetch(fs: AbstractFileSystem, path: str) -> Path:
    """Return a local copy of a file or directory; one is made for each state in which it was seen there.

    Copies lie in the user's cache directory and are never changed: a worker may go on reading an old one.

    Args:
        fs: Where it is.
        path: What.

    Returns:
        A file or directory of the same name.
    """
    fs.invalidate_cache()
    root = PurePosixPath(fs._strip_protocol(path))
    files = [path] if fs.isfile(path) else sorted(fs.find(path))
    state = combined_hash(*(part for name in files for part in (name, fs.ukey(name), str(fs.info(name).get("ETag")))))
    copy = cache_directory() / state / root.name
    if not copy.exists():
        partial = cache_directory() / f".{state}.{os.getpid()}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        for name in files:
            target = partial / root.name / PurePosixPath(fs._strip_protocol(name)).relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(target))
        try:
            partial.rename(copy.parent)
        except OSError:
            shutil.rmtree(partial)
            if not copy.exists():  # else another process was faster
                raise
    return copy


def put_directory(source: Path, fs: AbstractFileSystem, path: str, marker: str) -> None:
    """Put a directory there: its file `marker` is removed first and put there last, so that half of it is none.

    Files that were there and are not in `source` are removed.
    """
    fs.invalidate_cache()
    root = str(fs._strip_protocol(path))
    found = (file for file in sorted(source.rglob("*")) if file.is_file())
    files = {f"{root}/{file.relative_to(source).as_posix()}": file for file in found}
    old, last = set(fs.find(root)), f"{root}/{marker}"
    for name in sorted(old - (files.keys() - {last}), key=lambda name: name != last):
        fs.rm_file(name)
    for name in sorted(files, key=lambda name: name == last):
        fs.put_file(str(files[name]), name)
    fs.invalidate_cache()


def cache_directory() -> Path:
    """Return where copies lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rao_kedro/fetched"
