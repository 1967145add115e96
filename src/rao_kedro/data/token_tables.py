"""Reads the tables of prompt groups, conversations and reference log-probs that workers train on and score.

Tokens stay in a mapped file (`mapped_tables`), and groups are views of it.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rao_kedro.data.mapped_tables import map_table
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.tokenize import response_order
from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenIds, TokenizedGroup

ABOUT = ("group_id", "split", "chosen", "rejected")


def read_groups(
    path: Path,
    split: str | None,
    read: Collection[Literal["rewards", "ratings"]] = (),
    responses: int | None = None,
) -> list[TokenizedGroup]:
    """Read tokenised groups: the chosen response first, the rejected one second, then the others in their order.

    Args:
        path: Parquet with the columns of `TokenizedGroupTable`.
        split: Only rows of this split; None for all.
        read: Which of rewards and ratings to read; those not read are None.
        responses: The maximum number of responses per group, the first in this order; None for all.
    """
    groups = []
    for batch in map_table(path).select([*ABOUT, "prompt_ids", "response_ids", *read]).to_batches():
        about = batch.select([*ABOUT, *read]).to_pylist()
        for row, (prompt_ids, response_ids) in zip(about, _views_of_tokens(batch), strict=True):
            if split is not None and row["split"] != split:
                continue
            order = response_order(row["chosen"], row["rejected"], len(response_ids))[:responses]
            of_row = {name: [row[name][i] for i in order] for name in read}
            in_order = [response_ids[i] for i in order]
            rewards, ratings = of_row.get("rewards"), of_row.get("ratings")
            groups.append(TokenizedGroup(row["group_id"], prompt_ids, in_order, rewards, ratings))
    return groups


def read_groups_in_table_order(path: Path) -> list[TokenizedGroup]:
    """Read all tokenised groups, with the responses in the order of the table.

    Args:
        path: Parquet with `group_id`, `prompt_ids`, `response_ids`.
    """
    return [
        TokenizedGroup(name, prompt_ids, response_ids)
        for batch in map_table(path).select(["group_id", "prompt_ids", "response_ids"]).to_batches()
        for name, (prompt_ids, response_ids) in zip(batch["group_id"].to_pylist(), _views_of_tokens(batch), strict=True)
    ]


def holds_conversations(path: Path) -> bool:
    """Return whether a table is one of tokenised conversations, and not of groups."""
    return "conversation_id" in pq.read_schema(path).names


def read_tokenized_conversations(path: Path, split: str) -> list[TokenizedGroup]:
    """Read conversations as groups of one response: the prompt is what precedes the first token that is learned.

    Args:
        path: Parquet with the columns of `TokenizedConversationTable`.
        split: Only rows of this split.
    """
    groups = []
    for batch in map_table(path).select(["conversation_id", "split", "ids", "learned"]).to_batches():
        ends = batch["ids"].offsets.to_pylist()
        ids, learned = (batch[name].values.to_numpy(zero_copy_only=True) for name in ("ids", "learned"))
        names = zip(batch["conversation_id"].to_pylist(), batch["split"].to_pylist(), strict=True)
        for row, (name, of) in enumerate(names):
            if of == split:
                start, end = ends[row], ends[row + 1]
                first = start + int(learned[start:end].argmax())
                mask = learned[first:end].view(bool)
                groups.append(TokenizedGroup(name, ids[start:first], [ids[first:end]], learned=[mask]))
    return groups


def _views_of_tokens(batch: pa.RecordBatch) -> Iterator[tuple[TokenIds, list[TokenIds]]]:
    """Yield each row's prompt and its responses, as views of the batch."""
    prompts, responses = batch["prompt_ids"], batch["response_ids"]
    each = responses.values
    prompt_tokens, response_tokens = (of.values.to_numpy(zero_copy_only=True) for of in (prompts, each))
    prompt_ends, ends, token_ends = (of.offsets.to_pylist() for of in (prompts, responses, each))
    for row in range(len(batch)):
        of_row = range(ends[row], ends[row + 1])
        yield (
            prompt_tokens[prompt_ends[row] : prompt_ends[row + 1]],
            [response_tokens[token_ends[i] : token_ends[i + 1]] for i in of_row],
        )


class PromptGroups(Sequence[PromptGroup]):
    """The groups of a table as text, with the responses in the table's own order, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Map the table.

        Args:
            path: Parquet with the columns of `TokenizedGroupTable`.
        """
        columns = ["group_id", "messages", "responses", "requirements", "ratings", "finished"]
        self.table = map_table(path).select(columns)

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


def read_reference(path: Path, groups_path: Path) -> dict[str, tuple[float, list[float]]]:
    """Read reference log-probs as `{group_id: (prompt_logp, response_logps)}`, in the column order of `read_groups`.

    Raises:
        TrainingError: A group has no reference log-probs: the two tables do not belong together.
    """
    columns = ["group_id", "prompt_logp", "response_logps"]
    by_id = {row["group_id"]: row for row in pq.read_table(path, columns=columns).to_pylist()}
    result = {}
    for batch in map_table(groups_path).select(["group_id", "chosen", "rejected", "response_ids"]).to_batches():
        about = batch.select(["group_id", "chosen", "rejected"]).to_pylist()
        for row, k in zip(about, pc.list_value_length(batch["response_ids"]).to_pylist(), strict=True):
            reference = by_id.get(row["group_id"])
            if reference is None or len(reference["response_logps"]) != k:
                raise TrainingError(
                    f"group {row['group_id']} of {groups_path} has no matching row in {path}: run the pipeline "
                    "`alignment` from its start, so that the reference log-probs are computed again"
                )
            order = response_order(row["chosen"], row["rejected"], k)
            result[row["group_id"]] = (reference["prompt_logp"], [reference["response_logps"][i] for i in order])
    return result
