"""Gathers rows of one response each into prompt groups: consecutive rows of a prompt, or all rows of it.

A group of consecutive rows is complete as soon as another prompt begins. A group of rows that may stand anywhere is
complete after the last row of the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rao_kedro.data.formats import Rows
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.raw_groups import RawGroup
from rao_kedro.data.readers import RawRow
from rao_kedro.identity import combined_hash


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
        return RawGroup(
            first.messages, responses, ratings, first.requirements, finished, fields.pop() if fields else ""
        )


class Gathering:
    """Rows of one source that wait for the other rows of their prompt."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._waiting: dict[tuple[Rows, str], Gathered] = {}

    def take(self, row: RawRow, raw: RawGroup, kind: Rows) -> Iterator[Gathered]:
        """Add a row of one response, and yield the groups that are complete now."""
        key = kind, combined_hash(raw.requirements, *(f"{m['role']}:{m['content']}" for m in raw.messages))
        yield from self.interrupt(key)
        gathered = self._waiting.setdefault(key, Gathered(kind))
        gathered.rows.append(row)
        gathered.groups.append(raw)

    def interrupt(self, key: tuple[Rows, str] | None = None) -> Iterator[Gathered]:
        """Yield the groups of consecutive rows that are complete, since the next row has another prompt (`key`)."""
        for other in [other for other in self._waiting if other[0] is Rows.CONSECUTIVE and other != key]:
            yield self._waiting.pop(other)

    def rest(self) -> Iterator[Gathered]:
        """Yield the groups that are still waiting, after the last row."""
        yield from self._waiting.values()
        self._waiting = {}
