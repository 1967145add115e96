"""Gathers rows of one response each into prompt groups: consecutive rows of a prompt, or all rows of it.

A group of consecutive rows is complete as soon as another prompt begins. A group of rows that may stand anywhere is
complete after the last row of the source: until then its rows wait on disk, and 24 bytes of each in memory.
"""

import pickle
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np

from rao_kedro.data.digests import SIZE, digest
from rao_kedro.data.formats import Rows
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.raw_groups import RawGroup
from rao_kedro.data.readers import RawRow


@dataclass
class Gathered:
    """Rows of one prompt, in the order of the source."""

    kind: Rows
    rows: list[RawRow] = field(default_factory=list)
    groups: list[RawGroup] = field(default_factory=list)

    @property
    def row(self) -> RawRow:
        """All rows as one, for the quarantine: their sources and their contents."""
        if len(self.rows) == 1:
            return self.rows[0]
        return RawRow(" + ".join(row.source for row in self.rows), {"rows": [row.content for row in self.rows]})

    def merge(self) -> RawGroup:
        """Return the rows as one group.

        Raises:
            UnusableRow: The group holds no preference, or its ratings come from different fields.
        """
        first, n = self.groups[0], len(self.groups)
        ratings = [rating for group in self.groups for rating in group.ratings]
        if n == 1:
            where = "next to it" if self.kind is Rows.CONSECUTIVE else "in these data"
            raise UnusableRow(QuarantineReason.UNPAIRED_RESPONSE, f"no other row {where} has a response to this prompt")
        if self.kind is Rows.ALL and len(set(ratings)) == 1:
            detail = f"all {n} responses to this prompt have the same label: a group needs both labels"
            raise UnusableRow(QuarantineReason.UNPAIRED_RESPONSE, detail)
        fields = {group.rated_by for group in self.groups if group.ratings != [None]}
        if len(fields) > 1:
            detail = f"rows of one prompt are rated by different fields: {', '.join(sorted(fields))}"
            raise UnusableRow(QuarantineReason.BAD_RATING, detail)
        responses = [response for group in self.groups for response in group.responses]
        finished = [ended for group in self.groups for ended in group.finished or [True] * len(group.responses)]
        assert all(group.earlier_turns is None for group in self.groups)  # of one response each, which share all
        return RawGroup(
            first.messages, responses, ratings, first.requirements, finished, fields.pop() if fields else ""
        )


class Gathering:
    """Rows of one source that wait for the other rows of their prompt."""

    def __init__(self, directory: Path | None = None) -> None:
        """Start with no rows.

        Args:
            directory: Where rows that may stand anywhere wait; None is the system's place for temporary files.
        """
        self._directory = directory
        self._consecutive: tuple[bytes, Gathered] | None = None
        self._scattered: _ScatteredRows | None = None

    def take(self, row: RawRow, raw: RawGroup, kind: Rows) -> Iterator[Gathered]:
        """Add a row of one response, and yield the groups that are complete now."""
        key = digest(raw.requirements, *(f"{m['role']}:{m['content']}" for m in raw.messages))
        if kind is Rows.ALL:
            yield from self.interrupt()
            self._scattered = self._scattered or _ScatteredRows(self._directory)
            self._scattered.add(key, row, raw)
            return
        if self._consecutive is None or self._consecutive[0] != key:
            yield from self.interrupt()
            self._consecutive = key, Gathered(kind)
        gathered = self._consecutive[1]
        gathered.rows.append(row)
        gathered.groups.append(raw)

    def interrupt(self) -> Iterator[Gathered]:
        """Yield the group of consecutive rows that is complete, since the next row has another prompt."""
        if self._consecutive is not None:
            (_, complete), self._consecutive = self._consecutive, None
            yield complete

    def rest(self) -> Iterator[Gathered]:
        """Yield the groups that are still waiting, after the last row."""
        if self._scattered is not None:
            yield from self._scattered.groups()
            self._scattered = None
        yield from self.interrupt()


class _ScatteredRows:
    """Rows on disk, with the digest of each one's prompt and its place in the file.

    The file has no name and is open in this process alone, so what is unpickled is what was written here.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  it is removed when it is closed
        self._prompts, self._places = bytearray(), array("Q")

    def add(self, prompt: bytes, row: RawRow, raw: RawGroup) -> None:
        self._prompts += prompt
        self._places.append(self._file.tell())
        pickle.dump((row, raw), self._file)

    def groups(self) -> Iterator[Gathered]:
        """Yield the groups in the order of their first rows, and close the file."""
        prompts = np.frombuffer(bytes(self._prompts), dtype=f"V{SIZE}")
        _, first, group_of = np.unique(prompts, return_index=True, return_inverse=True)
        order = np.argsort(first[group_of], kind="stable")  # rows of one prompt together, in their own order
        with self._file as file:
            for _, of_prompt in groupby(order, key=lambda at: group_of[at]):
                gathered = Gathered(Rows.ALL)
                for at in of_prompt:
                    file.seek(self._places[at])
                    row, raw = pickle.load(file)
                    gathered.rows.append(row)
                    gathered.groups.append(raw)
                yield gathered
