"""Prompt groups from responses that a model wrote to prompts with checkable requirements, rated by the rules."""

import json
from collections.abc import Sequence

import pandas as pd

from rao_kedro.errors import DataError, ModelError
from rao_kedro.models.chat import ChatFormat, Message, prompt_token_ids
from rao_kedro.preferences.formats import RawGroup
from rao_kedro.preferences.groups import GroupBuilder
from rao_kedro.preferences.readers import RawRow
from rao_kedro.rewards.checks import score_responses


def prompts_to_sample(prompts: pd.DataFrame, train: int, test: int) -> pd.DataFrame:
    """Return the first `train` training prompts and the first `test` held-out ones; requirements as JSON.

    Raises:
        DataError: There are not that many.
    """
    parts = []
    for split, wanted in (("train", train), ("test", test)):
        found = prompts[prompts["split"] == split]
        if len(found) < wanted:
            raise DataError(f"prompts: {wanted} of split {split} are asked for, {len(found)} are there")
        parts.append(found.head(wanted))
    chosen = pd.concat(parts, ignore_index=True)
    return chosen.assign(requirements=[json.dumps(list(r), ensure_ascii=False) for r in chosen["requirements"]])


def evaluation_prompts(prompts: pd.DataFrame, skip: int, n: int) -> pd.DataFrame:
    """Return `n` held-out prompts behind the first `skip`, which training may have looked at for choosing checkpoints.

    Raises:
        DataError: There are not that many.
    """
    held_out = prompts_to_sample(prompts, 0, skip + n).iloc[skip:]
    return held_out[["prompt_id", "messages", "requirements"]].reset_index(drop=True)


def rate_by_rules(prompts: pd.DataFrame, generations: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return tables of `PreferenceGroups` and `QuarantinedRows`: one group per prompt, one rating per response.

    Args:
        prompts: As `prompts_to_sample` returns them.
        generations: Table of `Generations`, several samples for each prompt.
    """
    builder = GroupBuilder()
    written = generations.groupby("prompt_id")[["response", "finish_reason"]].agg(list)
    for split in ("test", "train"):
        for prompt in prompts[prompts["split"] == split].to_dict("records"):
            texts, reasons = written.loc[prompt["prompt_id"]]
            finished = [reason == "stop" for reason in reasons]
            ratings: list[float | None] = [*(score_responses(texts, prompt["requirements"]) or [])]
            group = RawGroup(list(prompt["messages"]), texts, ratings, prompt["requirements"], finished)
            row = RawRow(str(prompt["prompt_id"]), {"messages": group.messages, "responses": texts, "ratings": ratings})
            builder.add(split, row, group)
    return builder.tables()


def prompts_of_groups(
    preference_groups: pd.DataFrame, n: int, chat: ChatFormat, max_prompt_tokens: int
) -> pd.DataFrame:
    """Return the first `n` held-out prompts that fit, or all of them if there are fewer.

    Args:
        preference_groups: Table of `PreferenceGroups`.
        n: Wanted prompts.
        chat: How the policy writes a chat. Prompts that its template refuses are quarantined when they are tokenised,
            and not evaluated on either.
        max_prompt_tokens: The same holds for longer prompts.
    """
    held_out = preference_groups[preference_groups["split"] == "test"]
    fits = [_fits(chat, messages, max_prompt_tokens) for messages in held_out["messages"]]
    columns = {"group_id": "prompt_id"}
    return (
        held_out[fits].head(n).rename(columns=columns)[["prompt_id", "messages", "requirements"]].reset_index(drop=True)
    )


def _fits(chat: ChatFormat, messages: Sequence[Message], max_prompt_tokens: int) -> bool:
    try:
        return len(prompt_token_ids(chat, messages)) <= max_prompt_tokens
    except ModelError:
        return False
