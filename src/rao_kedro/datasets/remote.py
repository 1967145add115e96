"""Downloads and uploads: workers read and write local files, and data may lie on any file system of fsspec."""

import os
import shutil
import threading
from pathlib import Path, PurePosixPath

from fsspec import AbstractFileSystem

from rao_kedro.files import write_text
from rao_kedro.identity import combined_hash, file_hash


def fetch(fs: AbstractFileSystem, path: str) -> Path:
    """Return a local copy of a file or directory; one is made for each of its states.

    Copies lie in the user's cache directory under the hash of their content. An unchanged file that is uploaded again
    has the same path, so that a killed training that read it resumes. A copy never changes: a worker may be reading it.

    Args:
        fs: The file system.
        path: The file or directory on it.

    Returns:
        A file or directory of the same name.
    """
    fs.invalidate_cache()
    root = PurePosixPath(fs._strip_protocol(path))
    files = [path] if fs.isfile(path) else sorted(fs.find(path))
    state = combined_hash(*(part for name in files for part in (name, fs.ukey(name), str(fs.info(name).get("ETag")))))
    seen = cache_directory() / "states" / state
    if seen.exists() and (copy := cache_directory() / seen.read_text() / root.name).exists():
        return copy
    partial = cache_directory() / f".{state}.{os.getpid()}-{threading.get_ident()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    content = [root.name]
    for name in files:
        inside = PurePosixPath(root.name, PurePosixPath(fs._strip_protocol(name)).relative_to(root))
        (partial / inside).parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(name, str(partial / inside))
        content += [str(inside), file_hash(partial / inside).hex()]
    copy = cache_directory() / combined_hash(*content) / root.name
    try:
        partial.rename(copy.parent)
    except OSError:
        shutil.rmtree(partial)
        if not copy.exists():  # else the same content is there already
            raise
    write_text(seen, copy.parent.name)
    return copy


def put_directory(source: Path, fs: AbstractFileSystem, path: str, marker: str) -> None:
    """Upload a directory: its file `marker` is removed first and uploaded last, so that half a directory has none.

    Remote files that are not in `source` are removed.
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
    """Return the directory of the copies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rao_kedro/fetched"
