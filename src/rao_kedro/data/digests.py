"""Digests of what was seen before, as a set and as an index of rows, without Python objects for every row."""

import hashlib
from collections.abc import Iterable

import numpy as np

SIZE = 16  # bytes of a digest: of a billion different texts, two have the same one with a probability of 1e-21
EMPTY = bytes(SIZE)
SLOTS = 1024


def digest(*parts: str | bytes) -> bytes:
    """Return the 16-byte digest of several parts in their order."""
    found = hashlib.blake2b(digest_size=SIZE)
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big"))
        found.update(data)
    return found.digest()


class DigestSet:
    """A set of 16-byte digests: a hash table in one block of bytes, at most half full."""

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        """Start with some digests."""
        self._slots, self._count = SLOTS, 0
        self._table = bytearray(SLOTS * SIZE)
        for one in digests:
            self.add(one)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, one: bytes) -> bool:
        return self._at(self._place(one)) == one

    def add(self, one: bytes) -> bool:
        """Add a digest, and return whether it is new."""
        place = self._place(one)
        if self._at(place) == one:
            return False
        self._table[place : place + SIZE] = one
        self._count += 1
        if 2 * self._count > self._slots:
            self._grow()
        return True

    def _at(self, place: int) -> bytes:
        return bytes(self._table[place : place + SIZE])

    def _place(self, one: bytes) -> int:
        """Return where a digest is, or where it belongs: slots are searched one after the other."""
        slot = int.from_bytes(one[:8], "little") % self._slots
        while self._at(slot * SIZE) not in (one, EMPTY):
            slot = (slot + 1) % self._slots
        return slot * SIZE

    def _grow(self) -> None:
        old, self._slots = self._table, 4 * self._slots
        self._table = bytearray(self._slots * SIZE)
        for start in range(0, len(old), SIZE):
            if (one := bytes(old[start : start + SIZE])) != EMPTY:
                place = self._place(one)
                self._table[place : place + SIZE] = one


class DigestIndex:
    """The rows of 16-byte digests, of which the first 8 bytes are compared; 16 bytes a row are in memory."""

    def __init__(self, digests: bytes) -> None:
        """Index the rows.

        Args:
            digests: The digest of each row, one after the other.
        """
        keys = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)[:, 0].astype(np.uint64)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def find(self, one: bytes) -> int | None:
        """Return the row of a digest; None if it has none."""
        wanted = int.from_bytes(one[:8], "big")
        at = int(self._keys.searchsorted(np.uint64(wanted)))
        return int(self._order[at]) if at < len(self._keys) and int(self._keys[at]) == wanted else None
