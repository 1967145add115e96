"""Gathers rows of one response each into prompt groups: consecutive rows of a prompt, or all of them.

Consecutive rows are given on as soon as another prompt begins; only what may come anywhere waits for the last row.
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
    """Rows of one prompt, in their order."""

    kind: Rows
    rows: list[RawRow] = field(default_factory=list)
    groups: list[RawGroup] = field(default_factory=list)

    @property
    def row(self) -> RawRow:
        """What stands for all of the rows: where they stood, and what they said."""
        if len(self.rows) == 1:
            return self.rows[0]
        return RawRow(" + ".join(row.source for row in self.rows), {"rows": [row.content for row in self.rows]})

    def merge(self) -> RawGroup:
        """Return the rows as one group.

        Raises:
            UnusableRow: There is nothing to prefer a response to, or the ratings come from different fields.
        """
        first, n = self.groups[0], len(self.groups)
        ratings = [rating for group in self.groups for rating in group.ratings]
        if n == 1:
            where = "next to it" if self.kind is Rows.CONSECUTIVE else "in these data"
            raise UnusableRow(QuarantineReason.UNPAIRED_RESPONSE, f"no other row {where} has a response to this prompt")
        if self.kind is Rows.ALL and len(set(ratings)) == 1:
            detail = f"all {n} responses to this prompt have the same label: a group needs both"
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
    """The rows of one source on their way to groups."""

    def __init__(self) -> None:
        """Start without any."""
        self._waiting: dict[tuple[Rows, str], Gathered] = {}

    def take(self, row: RawRow, raw: RawGroup, kind: Rows) -> Iterator[Gathered]:
        """Take a row of one response, and yield what is complete now."""
        key = kind, combined_hash(raw.requirements, *(f"{m['role']}:{m['content']}" for m in raw.messages))
        yield from self.interrupt(key)
        gathered = self._waiting.setdefault(key, Gathered(kind))
        gathered.rows.append(row)
        gathered.groups.append(raw)

    def interrupt(self, key: tuple[Rows, str] | None = None) -> Iterator[Gathered]:
        """Yield consecutive rows that are complete because the next row is not of their prompt (the one of `key`)."""
        for other in [other for other in self._waiting if other[0] is Rows.CONSECUTIVE and other != key]:
            yield self._waiting.pop(other)

    def rest(self) -> Iterator[Gathered]:
        """Yield the rows that were waiting for more, when there are no more."""
        yield from self._waiting.values()
        self._waiting = {}
