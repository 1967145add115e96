"""Reads the Parquet tables of prompt groups and reference log-probs that workers train on."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.tokenize import response_order
from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup


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
    columns = ["group_id", "split", "prompt_ids", "response_ids", "chosen", "rejected"]
    groups = []
    for row in pq.read_table(path, columns=[*columns, *read]).to_pylist():
        if split is not None and row["split"] != split:
            continue
        order = _column_order(row)[:responses]
        groups.append(
            TokenizedGroup(
                group_id=row["group_id"],
                prompt_ids=row["prompt_ids"],
                response_ids=[row["response_ids"][i] for i in order],
                rewards=[row["rewards"][i] for i in order] if "rewards" in read else None,
                ratings=[row["ratings"][i] for i in order] if "ratings" in read else None,
            )
        )
    return groups


def read_prompt_groups(path: Path) -> list[PromptGroup]:
    """Read tokenised groups as text, with the responses in the table's own order."""
    columns = ["group_id", "messages", "responses", "requirements", "ratings", "finished"]
    return [PromptGroup(**row) for row in pq.read_table(path, columns=columns).to_pylist()]


def read_reference(path: Path, groups_path: Path) -> dict[str, tuple[float, list[float]]]:
    """Read reference log-probs as `{group_id: (prompt_logp, response_logps)}`, in the column order of `read_groups`.

    Raises:
        TrainingError: A group has no reference log-probs: the two tables do not belong together.
    """
    by_id = {row["group_id"]: row for row in pq.read_table(path).to_pylist()}
    result = {}
    for row in pq.read_table(groups_path, columns=["group_id", "chosen", "rejected", "response_ids"]).to_pylist():
        reference = by_id.get(row["group_id"])
        if reference is None or len(reference["response_logps"]) != len(row["response_ids"]):
            raise TrainingError(
                f"group {row['group_id']} of {groups_path} has no matching row in {path}: run the pipeline "
                "`alignment` from its start, so that the reference log-probs are computed again"
            )
        order = _column_order(row)
        result[row["group_id"]] = (reference["prompt_logp"], [reference["response_logps"][i] for i in order])
    return result


def _column_order(row: dict) -> list[int]:
    return response_order(row["chosen"], row["rejected"], len(row["response_ids"]))
