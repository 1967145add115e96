"""Groups of a mapped table as a sequence: each is made when it is asked for, and its tokens are views of the table.

Of each group, eight bytes stay in memory: the number of its row.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rao_kedro.data.tokenize import response_order
from rao_kedro.models.packing import TokenIds, TokenizedGroup


class MappedGroups(Sequence[TokenizedGroup]):
    """Some rows of a table as groups, in the order of the rows."""

    def __init__(
        self, make: Sequence[Callable[[int], TokenizedGroup]], starts: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        """Choose the rows.

        Args:
            make: For each batch of the table, a function that returns the group of one of its rows.
            starts: The number of each batch's first row in the table.
            rows: The numbers of the rows in the table.
        """
        self._make, self._starts, self._rows = make, starts, rows

    def where(self, keep: Callable[[TokenizedGroup], bool]) -> "MappedGroups":
        """Return the groups that a function keeps."""
        kept = [row for row, group in zip(self._rows.tolist(), self, strict=True) if keep(group)]
        return MappedGroups(self._make, self._starts, np.array(kept, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> TokenizedGroup: ...

    @overload
    def __getitem__(self, at: slice) -> "MappedGroups": ...

    def __getitem__(self, at: int | slice) -> "TokenizedGroup | MappedGroups":
        if isinstance(at, slice):
            return MappedGroups(self._make, self._starts, self._rows[at])
        row = int(self._rows[at])
        batch = int(self._starts.searchsorted(row, side="right")) - 1
        return self._make[batch](row - int(self._starts[batch]))

    def __iter__(self) -> Iterator[TokenizedGroup]:
        return (self[at] for at in range(len(self)))


def groups_of(
    table: pa.Table,
    split: str | None,
    make: Callable[[pa.RecordBatch], Callable[[int], TokenizedGroup]],
) -> MappedGroups:
    """Return the groups of a mapped table that are in a split; None for all."""
    batches = table.to_batches()
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)], dtype=np.int64)[:-1]
    rows = np.arange(table.num_rows, dtype=np.int64)
    if split is not None:
        rows = rows[np.array(table["split"].to_numpy() == split, dtype=bool)]
    return MappedGroups([make(batch) for batch in batches], starts, rows)


class TokensOfBatch:
    """The tokens of a batch: of each row its prompt, its responses and which of their tokens are learned, as views."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Find where prompts and responses begin."""
        prompts, responses = batch["prompt_ids"], batch["response_ids"]
        self._prompt_ids, self._response_ids = (
            of.values.to_numpy(zero_copy_only=True) for of in (prompts, responses.values)
        )
        self._prompts, self._groups, self._responses = (
            of.offsets.to_numpy(zero_copy_only=True) for of in (prompts, responses, responses.values)
        )
        self._ids = batch["group_id"]
        self._masks = _Masks(batch["learned"]) if "learned" in batch.schema.names else None

    def id_of(self, row: int) -> str:
        """Return the id of a group."""
        found: str = self._ids[row].as_py()
        return found

    def learned(self, row: int) -> list[NDArray[np.bool_]] | None:
        """Return which tokens of each response are learned; None if all are."""
        return None if self._masks is None else self._masks.of(row)

    def of(self, row: int) -> tuple[TokenIds, list[TokenIds]]:
        """Return the prompt and the responses of a group."""
        ends = self._responses[self._groups[row] : self._groups[row + 1] + 1].tolist()
        return (
            self._prompt_ids[self._prompts[row] : self._prompts[row + 1]],
            [self._response_ids[a:b] for a, b in pairwise(ends)],
        )


def in_order_of_training(
    batch: pa.RecordBatch, read: Collection[str], responses: int | None
) -> Callable[[int], TokenizedGroup]:
    """Return a function that makes the group of a row: the chosen response first, then the rejected one, then others.

    Args:
        batch: Rows of a table of `TokenizedGroupTable`.
        read: Which of rewards and ratings to read.
        responses: The maximum number of responses per group; None for all.
    """
    tokens, columns = TokensOfBatch(batch), {name: _Numbers(batch[name]) for name in read}
    chosen, rejected = (batch[name].to_numpy() for name in ("chosen", "rejected"))

    def make(row: int) -> TokenizedGroup:
        prompt, of_group = tokens.of(row)
        order = response_order(int(chosen[row]), int(rejected[row]), len(of_group))[:responses]
        numbers: dict[str, Any] = {}
        for name, column in columns.items():
            values = column.of(row)
            numbers[name] = [values[i] for i in order]
        masks = tokens.learned(row)
        learned = None if masks is None else [masks[i] for i in order]
        return TokenizedGroup(tokens.id_of(row), prompt, [of_group[i] for i in order], learned=learned, **numbers)

    return make


class _Numbers:
    """A column of lists of numbers."""

    def __init__(self, column: pa.ListArray) -> None:
        self._values, self._offsets = column.values.to_numpy(), column.offsets.to_numpy()

    def of(self, row: int) -> list[float]:
        values: list[float] = self._values[self._offsets[row] : self._offsets[row + 1]].tolist()
        return values


class _Masks:
    """A column of lists of masks, null in rows that have none."""

    def __init__(self, column: pa.ListArray) -> None:
        self._values = column.values.values.to_numpy(zero_copy_only=True)
        self._groups, self._responses = column.offsets.to_numpy(), column.values.offsets.to_numpy()

    def of(self, row: int) -> list[NDArray[np.bool_]] | None:
        ends = self._responses[self._groups[row] : self._groups[row + 1] + 1].tolist()
        return [self._values[a:b].view(bool) for a, b in pairwise(ends)] or None
