"""Prompt groups from sampled responses to prompts with checkable requirements; the rules rate the responses."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from rao_kedro.config.data_engineering import SampledResponses
from rao_kedro.data.groups import building_groups
from rao_kedro.data.raw_groups import RawGroup
from rao_kedro.data.readers import RawRow
from rao_kedro.data.requirements import score_responses
from rao_kedro.data.table_files import read_rows
from rao_kedro.errors import DataError
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import ChatFormat


@dataclass(frozen=True)
class DividedPrompts:
    """Prompts divided by use; `requirements` are JSON.

    Attributes:
        to_sample: Prompts to sample responses for; `split` is the split of the groups.
        evaluation: Table of `EvaluationPromptTable`. Its first prompts are those of the `test` groups.
    """

    to_sample: pd.DataFrame
    evaluation: pd.DataFrame


def divide_prompts(
    prompts: pd.DataFrame, counts: SampledResponses, n_evaluation: int, chat: ChatFormat
) -> DividedPrompts:
    """Divide prompts into training prompts, validation prompts and evaluation prompts.

    Args:
        prompts: Table of `PromptTable`. The first held-out prompts are for validation, the next for the evaluation.
        counts: The number of prompts of each split.
        n_evaluation: The number of evaluation prompts.
        chat: The model's chat format; prompts with equal tokens are the same.

    Raises:
        DataError: There are too few prompts, or two prompts are the same.
    """
    _refuse_same_prompts(prompts, chat)
    prompts = prompts.assign(requirements=[json.dumps(list(r), ensure_ascii=False) for r in prompts["requirements"]])
    train = _first(prompts, "train", counts.train_prompts)
    held_out = _first(prompts, "test", counts.validation_prompts + n_evaluation)
    validation, evaluation = held_out[: counts.validation_prompts], held_out[counts.validation_prompts :]
    parts = [train, validation.assign(split="validation"), evaluation.head(counts.test_prompts)]
    columns = ["prompt_id", "messages", "requirements"]
    return DividedPrompts(pd.concat(parts, ignore_index=True), evaluation[columns].reset_index(drop=True))


def _first(prompts: pd.DataFrame, split: str, wanted: int) -> pd.DataFrame:
    found = prompts[prompts["split"] == split]
    if len(found) < wanted:
        raise DataError(
            f"prompts: split {split} has {len(found)} prompts, and {wanted} are needed: lower data.sampled.*_prompts "
            "or data.evaluation_prompts, or add prompts"
        )
    return found.head(wanted)


def _refuse_same_prompts(prompts: pd.DataFrame, chat: ChatFormat) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for prompt_id, messages in zip(prompts["prompt_id"], prompts["messages"], strict=True):
        first = seen.setdefault(tuple(prompt_token_ids(chat, messages)), prompt_id)
        if first != prompt_id:
            raise DataError(f"prompts: {first} and {prompt_id} are the same prompt, token by token: remove one of them")


def rate_by_rules(
    prompts: pd.DataFrame, generations: Path, end_of_turn_ids: Collection[int], directory: Path
) -> tuple[Path, Path]:
    """Write tables of `PreferenceGroupTable` and `QuarantineTable`: one group per prompt, one rating per response.

    Args:
        prompts: Those of `DividedPrompts.to_sample`.
        generations: Parquet of `GenerationTable`, several samples for each prompt, which stand together.
        end_of_turn_ids: A finished response ends with one of these tokens. A response that a stop text ended counts as
            not finished, since the model has not ended its turn.
        directory: Where the tables are written.

    Returns:
        The paths of the tables.
    """
    with building_groups(directory) as builder:
        for split in ("test", "validation", "train"):
            of_split = {prompt["prompt_id"]: prompt for prompt in prompts[prompts["split"] == split].to_dict("records")}
            written = read_rows(
                generations, ["prompt_id", "response", "response_ids"], where=("prompt_id", of_split.keys())
            )
            for prompt_id, samples in groupby(written, key=lambda row: row["prompt_id"]):
                prompt = of_split[prompt_id]
                texts, finished = zip(
                    *((row["response"], row["response_ids"][-1] in end_of_turn_ids) for row in samples), strict=True
                )
                ratings: list[float | None] = [*(score_responses(texts, prompt["requirements"]) or [])]
                group = RawGroup(list(prompt["messages"]), texts, ratings, prompt["requirements"], list(finished))
                content = {"messages": group.messages, "responses": list(texts), "ratings": ratings}
                builder.add(split, RawRow(str(prompt_id), content), group)
    return builder.tables()
