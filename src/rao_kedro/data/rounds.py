"""The prompts of on-policy rounds, and the groups of the responses that a policy samples for them.

Knows tables and numbers; no model.
"""

import random
from collections.abc import Collection
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from rao_kedro.data.arrow_schemas import MESSAGES, TOKENIZED_GROUPS
from rao_kedro.data.table_files import TableWriter, read_batches, read_rows
from rao_kedro.errors import DataError

PROMPTS = pa.schema({"prompt_id": pa.string(), "messages": MESSAGES, "requirements": pa.string()})


class RoundPrompts(NamedTuple):
    """The training groups that a round takes.

    Attributes:
        sampled: Ids of the groups whose prompts get new responses.
        offline: Ids of the groups that are trained on as they are.
    """

    sampled: frozenset[str]
    offline: frozenset[str]


def choose_prompts(
    annotated: Path, round_: int, per_round: int | None, offline_share: float, seed: int
) -> RoundPrompts:
    """Return what a round trains on.

    Rounds take the training prompts in turn, in a random order that is new in every pass over them.

    Args:
        annotated: Table of `AnnotatedGroupTable`.
        round_: Number of the round, from 1 on.
        per_round: Prompts of a round; None takes all.
        offline_share: Share of the prompts whose responses are those of the table.
        seed: Seed of the order.

    Raises:
        DataError: There are fewer training prompts than `per_round`.
    """
    ids = [row["group_id"] for row in read_rows(annotated, ["group_id"], where=("split", ["train"]))]
    wanted = len(ids) if per_round is None else per_round
    if wanted > len(ids):
        raise DataError(f"rounds.prompts_per_round is {wanted}, and there are {len(ids)} training prompts: lower it")
    waiting: list[str] = []
    taken: list[str] = []
    for k in range(1, round_ + 1):
        if len(waiting) < wanted:
            again = random.Random(f"{seed}:{k}").sample(ids, len(ids))
            now = {*waiting}  # a prompt that is still waiting comes first, and not twice in a round
            waiting += [name for name in again if name not in now] + [name for name in again if name in now]
        taken, waiting = waiting[:wanted], waiting[wanted:]
    n_offline = int(wanted * offline_share)  # one prompt at least is sampled from
    return RoundPrompts(frozenset(taken[n_offline:]), frozenset(taken[:n_offline]))


def write_prompts(annotated: Path, where: tuple[str, Collection[str]], path: Path) -> None:
    """Write prompts as text generation reads them, in the order of their groups.

    Args:
        annotated: Table of `AnnotatedGroupTable`.
        where: A column, and its values in the groups to take, as in `("group_id", ids)`.
        path: Parquet to write; a prompt's id is that of its group.
    """
    with TableWriter(path, PROMPTS) as table:
        for batch in read_batches(annotated, ["group_id", "messages", "requirements"], where=where):
            table.write_batch(batch.rename_columns(PROMPTS.names))


def write_sampled_groups(
    annotated: Path, ids: Collection[str], generations: Path, end_of_turn_ids: Collection[int], path: Path
) -> None:
    """Write the groups of sampled responses, token by token as they were sampled, without ratings.

    Args:
        annotated: Table of `AnnotatedGroupTable`, whose prompts were sampled from.
        ids: Ids of its groups that were sampled from.
        generations: Parquet of `GenerationTable` for the prompts of `write_prompts`.
        end_of_turn_ids: A finished response ends with one of these tokens.
        path: Table with the columns of `TokenizedGroupTable` to write; its ratings are null.

    Raises:
        DataError: The responses are those of other prompts.
    """
    columns = ["prompt_id", "response", "response_ids", "prompt_ids"]
    written = groupby(read_rows(generations, columns), key=lambda row: row["prompt_id"])
    with TableWriter(path, TOKENIZED_GROUPS) as groups:
        kept = ["group_id", "split", "messages", "requirements", "prompt_ids"]
        for row in read_rows(annotated, kept, where=("group_id", ids)):
            prompt_id, samples = next(written, (None, iter(())))
            responses = list(samples)
            if prompt_id != row["group_id"] or any(of["prompt_ids"] != row["prompt_ids"] for of in responses):
                raise DataError(
                    f"{generations}: the responses are not those to the prompt of group {row['group_id']}: sample again"
                )
            ids_of = [response["response_ids"] for response in responses]
            groups.write(
                row
                | {
                    "responses": [response["response"] for response in responses],
                    "response_ids": ids_of,
                    "ratings": None,
                    "finished": [ids[-1] in end_of_turn_ids for ids in ids_of],
                    "chosen": 0,
                    "rejected": 1,
                    "earlier_turns": None,
                    "learned": None,
                }
            )
