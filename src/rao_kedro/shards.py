"""Long work is kept as it is done, under keys that say what it was made from: a killed run goes on from there.

`Shards` keeps the parts of unfinished work, and `is_finished` tells whether the outputs of finished work can be used
again. A key is a hash (`identity.combined_hash`) of everything the work depends on: the caller computes it. What has
another key is never returned, nor what is not, byte for byte, what was written. Knows nothing of models or tables.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from rao_kedro.files import write_bytes, write_text
from rao_kedro.identity import path_hash
from rao_kedro.progress import NOTICE

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

Part = TypeVar("Part")
SUFFIX = ".shard"


class Format(NamedTuple, Generic[Part]):
    """How parts are stored.

    Attributes:
        encode: Returns the bytes of a part.
        decode: Returns the part; raises ValueError where the bytes are not those of one.
    """

    encode: Callable[[Part], bytes]
    decode: Callable[[bytes], Part]


class Shards(Generic[Part]):
    """A directory of parts, one file each, named after their keys.

    Files are written atomically, so processes and threads may share a directory: of two that write the same part, the
    last one wins. A file begins with a line of its key and the SHA-256 of the rest, and is removed, with a warning, if
    that line does not fit.
    """

    def __init__(self, directory: Path | None, format: Format[Part]) -> None:
        """Open a directory.

        Args:
            directory: Where parts are kept; made when the first one is written. None keeps nothing.
            format: How parts are stored.
        """
        self.directory, self.format = directory, format

    def read(self, key: str) -> Part | None:
        """Return the part that was written under this key; None if there is none, or it is damaged."""
        if self.directory is None:
            return None
        path = self._path(self.directory, key)
        try:
            first_line, _, content = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        try:
            if first_line == _first_line(key, content):
                return self.format.decode(content)
        except ValueError:
            pass
        logger.warning("%s is damaged, or was written for something else: it is removed and made again", path)
        path.unlink(missing_ok=True)
        return None

    def write(self, key: str, part: Part) -> None:
        """Keep a part; it replaces what was kept under this key."""
        if self.directory is not None:
            content = self.format.encode(part)
            write_bytes(self._path(self.directory, key), _first_line(key, content) + b"\n" + content)

    def read_or_make(
        self, keys: Sequence[str], make: Callable[[list[int]], Iterable[tuple[int, Part]]]
    ) -> Iterator[tuple[int, Part]]:
        """Yield the parts with their positions in `keys`: first those that are kept, then the others as they are made.

        Args:
            keys: Of all parts of the work.
            make: Yields the parts of some positions, in any order; each is kept at once. Called only if one is missing.
        """
        missing = []
        for position, key in enumerate(keys):
            if (part := self.read(key)) is not None:
                yield position, part
            else:
                missing.append(position)
        if missing:
            if len(missing) < len(keys):
                done = len(keys) - len(missing)
                logger.info("goes on: %d of %d shards in %s are kept", done, len(keys), self.directory, extra=NOTICE)
            for position, part in make(missing):
                self.write(keys[position], part)
                yield position, part

    def discard_others(self, keys: Collection[str]) -> None:
        """Remove all files but those of some keys: what is left of a run with other inputs or parameters."""
        if self.directory is None:
            return
        expected = {self._path(self.directory, key) for key in keys}
        others = {*self.directory.glob(f"*{SUFFIX}*")} - expected  # with what killed writers left
        for path in others:
            path.unlink(missing_ok=True)
        if n := sum(path.suffix == SUFFIX for path in others):
            logger.info("removed %d shards from %s that a run with other inputs or parameters left", n, self.directory)

    def remove(self) -> None:
        """Remove the directory, when the work is done."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _path(directory: Path, key: str) -> Path:
        return directory / f"{key}{SUFFIX}"


def _first_line(key: str, content: bytes) -> bytes:
    return f"{key} {hashlib.sha256(content).hexdigest()}".encode()


def _encode_table(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    return buffer.getvalue().to_pybytes()


def _decode_table(content: bytes) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(content))


TABLE: "Format[pa.Table]" = Format(_encode_table, _decode_table)
JSON: Format[Any] = Format(lambda part: json.dumps(part).encode(), json.loads)


def mark_finished(marker: Path, key: str, outputs: Sequence[Path]) -> None:
    """Note that outputs are complete, what they were made from, and what they are.

    Args:
        marker: The JSON file to write, beside the outputs.
        key: A hash of everything they were made from.
        outputs: Files and directories.
    """
    hashes = {str(path): path_hash(path) for path in outputs}
    write_text(marker, json.dumps({"key": key, "outputs": hashes}, indent=2))


def is_finished(marker: Path, key: str, outputs: Sequence[Path]) -> bool:
    """Return whether outputs were made under this key, and are still what was written then."""
    try:
        noted = json.loads(marker.read_text())
    except (FileNotFoundError, ValueError):
        return False
    there = {str(path): path_hash(path) for path in outputs if path.exists()}
    return noted == {"key": key, "outputs": there} and len(there) == len(outputs)
