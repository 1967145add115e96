"""Content hashes of checkpoints, files and directories. Imports the standard library only."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rao_kedro.errors import DataError, ModelError
from rao_kedro.files import write_text

LARGE = 2**26  # bytes; the hash of a larger file is kept for other processes
# Keys of parameters whose value may name a file even if it is a plain word.
NAMES_A_FILE = ("path", "name", "start", "model", "chat_template")


def content_hash(model_dir: str | Path) -> str:
    """Return a short hash of a checkpoint: of every file, at any depth, but READMEs and hidden files.

    A changed stop token, chat template or vocabulary makes a different checkpoint, as changed weights do. Links are
    followed.

    Raises:
        ModelError: The directory holds no safetensors file.
    """
    directory = Path(model_dir)
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"{directory} holds no *.safetensors file, so it is not a checkpoint that can be used here")
    return directory_hash(directory)


def directory_hash(directory: Path) -> str:
    """Return a short hash of every file of a directory with its name, but of `*.md`, README, lock and hidden files."""
    parts = [part for path in _files_of(directory) for part in (_name(path, directory), cached_hash(path))]
    return combined_hash(*parts)


def path_hash(path: Path) -> str:
    """Return a short hash of a file, or of a directory."""
    return directory_hash(path) if path.is_dir() else combined_hash(cached_hash(path))


def named_files(values: Mapping[str, Any], but: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the hashes of the files and directories that parameters name.

    A text counts as a path if it contains a slash or a dot, or if its key is one of `NAMES_A_FILE` or ends in `_dir` or
    `_path`; it is hashed if the file exists.

    Args:
        values: Parameters by their dotted name.
        but: Keys whose files do not count.
    """
    found = {}
    for name, value in values.items():
        key = name.rpartition(".")[2]
        if key in but or not isinstance(value, str) or not value:
            continue
        if "/" in value or "." in value or key in NAMES_A_FILE or key.endswith(("_dir", "_path")):
            path = Path(value).expanduser()
            with suppress(OSError):  # a text that is too long to be a path
                if path.exists():
                    found[name] = path_hash(path)
    return found


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists, by dotted names."""
    if isinstance(value, Mapping) and value:
        return {n: leaf for key, part in value.items() for n, leaf in flatten(part, _dotted(name, key)).items()}
    if isinstance(value, list) and value:
        return {n: leaf for key, part in enumerate(value) for n, leaf in flatten(part, _dotted(name, key)).items()}
    return {name: value}


def _dotted(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _files_of(directory: Path) -> Iterator[Path]:
    """Yield the files that count, in the order of their names."""
    for path in sorted(directory.iterdir()):
        if path.name.startswith((".", "README")) or path.suffix in (".md", ".lock"):
            continue
        if not path.exists():
            raise DataError(f"{path} is a link to {path.readlink()}, which does not exist")
        if path.is_dir():
            yield from _files_of(path)
        else:
            yield path


def _name(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix()


def cached_hash(path: Path) -> bytes:
    """Return the SHA-256 of a file; it is read again only after its size, times or inode changed."""
    state = path.stat()
    times = state.st_mtime_ns, state.st_ctime_ns  # ctime cannot be set, so that `cp -p` onto the file changes it
    return _hash_of_state(path.resolve(), state.st_size, *times, state.st_dev, state.st_ino)


@cache
def _hash_of_state(path: Path, size: int, *state: int) -> bytes:
    """Return the hash of a file in one state; the hash of a large file is kept in the user's cache directory."""
    if size < LARGE:
        return file_hash(path)
    kept = _cache_directory() / combined_hash(str(path), str(size), *map(str, state))
    with suppress(FileNotFoundError):
        return bytes.fromhex(kept.read_text())
    found = file_hash(path)
    with suppress(OSError):  # the home is read-only: the file is hashed again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, found.hex())
    return found


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rao_kedro/hashes"


def file_hash(path: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


class Streamed(NamedTuple):
    """A part of a hash that is too large to hold at once; it hashes as its pieces together do.

    Attributes:
        size: Bytes of all pieces.
        pieces: The pieces, in their order.
    """

    size: int
    pieces: Iterable[bytes]


def combined_hash(*parts: str | bytes | Streamed) -> str:
    """Return a short hash of several parts in their order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        size, pieces = data if isinstance(data, Streamed) else (len(data), [data])
        digest.update(size.to_bytes(8, "big"))
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()[:16]
