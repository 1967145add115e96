"""Reads the tables of prompt groups, conversations and reference log-probs that workers train on and score.

Tokens stay in a mapped file (`mapped_tables`), and groups are views of it.
"""

from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rao_kedro.data.digests import DigestIndex, digest
from rao_kedro.data.mapped_groups import MappedGroups, TokensOfBatch, groups_of, in_order_of_training
from rao_kedro.data.mapped_tables import map_table
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.table_files import read_rows
from rao_kedro.data.tokenize import response_order
from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup

ABOUT = ("group_id", "split", "chosen", "rejected")


def read_groups(
    path: Path,
    split: str | None,
    read: Collection[Literal["rewards", "ratings"]] = (),
    responses: int | None = None,
) -> MappedGroups:
    """Read tokenised groups: the chosen response first, the rejected one second, then the others in their order.

    Args:
        path: Parquet with the columns of `TokenizedGroupTable`.
        split: Only rows of this split; None for all.
        read: Which of rewards and ratings to read; those not read are None.
        responses: The maximum number of responses per group, the first in this order; None for all.
    """
    table = _select(map_table(path), [*ABOUT, "prompt_ids", "response_ids", *read], ["learned"])
    return groups_of(table, split, partial(in_order_of_training, read=read, responses=responses))


def read_groups_in_table_order(path: Path) -> MappedGroups:
    """Read all tokenised groups, with the responses in the order of the table.

    Args:
        path: Parquet with `group_id`, `prompt_ids`, `response_ids`.
    """

    def make_of(batch: pa.RecordBatch) -> Callable[[int], TokenizedGroup]:
        tokens = TokensOfBatch(batch)
        return lambda row: TokenizedGroup(tokens.id_of(row), *tokens.of(row), learned=tokens.learned(row))

    table = _select(map_table(path), ["group_id", "prompt_ids", "response_ids"], ["learned"])
    return groups_of(table, None, make_of)


def _select(table: pa.Table, columns: Sequence[str], if_there: Sequence[str]) -> pa.Table:
    """Return some columns of a table, and others if they have values."""
    types = {field.name: field.type for field in table.schema}
    return table.select([*columns, *(name for name in if_there if not pa.types.is_null(types.get(name, pa.null())))])


def holds_conversations(path: Path) -> bool:
    """Return whether a table is one of tokenised conversations, and not of groups."""
    return "conversation_id" in pq.read_schema(path).names


def read_tokenized_conversations(path: Path, split: str) -> MappedGroups:
    """Read conversations as groups of one response: the prompt is what precedes the first token that is learned.

    Args:
        path: Parquet with the columns of `TokenizedConversationTable`.
        split: Only rows of this split.
    """

    def make_of(batch: pa.RecordBatch) -> Callable[[int], TokenizedGroup]:
        names, ends = batch["conversation_id"], batch["ids"].offsets.to_numpy()
        ids, learned = (batch[name].values.to_numpy(zero_copy_only=True) for name in ("ids", "learned"))

        def make(row: int) -> TokenizedGroup:
            start, end = int(ends[row]), int(ends[row + 1])
            first = start + int(learned[start:end].argmax())
            mask = learned[first:end].view(bool)
            return TokenizedGroup(names[row].as_py(), ids[start:first], [ids[first:end]], learned=[mask])

        return make

    return groups_of(map_table(path).select(["conversation_id", "split", "ids", "learned"]), split, make_of)


class PromptGroups(Sequence[PromptGroup]):
    """The groups of a table as text, with the responses in the table's own order, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Map the table.

        Args:
            path: Parquet with the columns of `TokenizedGroupTable`.
        """
        columns = ["group_id", "messages", "responses", "requirements", "ratings", "finished"]
        self.table = _select(map_table(path), columns, ["earlier_turns"])

    @property
    def ids(self) -> list[str]:
        """The `group_id` of each row."""
        ids: list[str] = self.table["group_id"].to_pylist()
        return ids

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, at: int) -> PromptGroup: ...

    @overload
    def __getitem__(self, at: slice) -> list[PromptGroup]: ...

    def __getitem__(self, at: int | slice) -> PromptGroup | list[PromptGroup]:
        rows = range(len(self))[at]
        if isinstance(rows, int):
            (group,) = self[rows : rows + 1]
            return group
        table = self.table.slice(rows.start, len(rows)) if rows.step == 1 else self.table.take([*rows])
        return [PromptGroup(**row) for row in table.to_pylist()]

    def __iter__(self) -> Iterator[PromptGroup]:
        for batch in self.table.to_batches():
            yield from (PromptGroup(**row) for row in batch.to_pylist())


class ReferenceLogps:
    """Reference log-probs by `group_id`: of the prompt, and of the responses in the column order of `read_groups`.

    Numbers are in flat arrays; an id is found by its digest, of which 16 bytes per group are in memory.
    """

    def __init__(self, digests: bytes, prompts: NDArray[Any], responses: NDArray[Any], ends: NDArray[Any]) -> None:
        """Index the groups.

        Args:
            digests: The digest of each group's id.
            prompts: `[groups]` log-probs of prompts.
            responses: Log-probs of all responses, one group after the other.
            ends: `[groups + 1]` where the responses of each group begin.
        """
        self._index = DigestIndex(digests)
        self._prompts, self._responses, self._ends = prompts, responses, ends

    def __contains__(self, group_id: str) -> bool:
        return self._index.find(digest(group_id)) is not None

    def __getitem__(self, group_id: str) -> tuple[float, list[float]]:
        if (row := self._index.find(digest(group_id))) is None:
            raise KeyError(group_id)
        return float(self._prompts[row]), self._responses[self._ends[row] : self._ends[row + 1]].tolist()

    def __len__(self) -> int:
        return len(self._index)


def read_reference(path: Path, groups_path: Path) -> ReferenceLogps:
    """Read reference log-probs, in the column order of `read_groups`.

    Args:
        path: Table of `ReferenceLogProbTable`, its groups in the order of `groups_path`.
        groups_path: Table of `TokenizedGroupTable`.

    Raises:
        TrainingError: A group has no reference log-probs: the two tables do not belong together.
    """
    columns = ["group_id", "chosen", "rejected", "response_ids"]
    found = read_rows(path, ["group_id", "prompt_logp", "response_logps"])
    names, prompts, responses, ends = bytearray(), array("d"), array("d"), array("q", [0])
    for batch in map_table(groups_path).select(columns).to_batches():
        about = batch.select(["group_id", "chosen", "rejected"]).to_pylist()
        for row, k in zip(about, pc.list_value_length(batch["response_ids"]).to_pylist(), strict=True):
            reference = next(found, None)
            if reference is None or reference["group_id"] != row["group_id"] or len(reference["response_logps"]) != k:
                raise TrainingError(
                    f"group {row['group_id']} of {groups_path} has no matching row in {path}: run the pipeline "
                    "`alignment` from its start, so that the reference log-probs are computed again"
                )
            names += digest(row["group_id"])
            prompts.append(reference["prompt_logp"])
            responses.extend(reference["response_logps"][i] for i in response_order(row["chosen"], row["rejected"], k))
            ends.append(len(responses))
    return ReferenceLogps(bytes(names), *(np.array(of) for of in (prompts, responses, ends)))
