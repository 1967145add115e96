"""Tokenises prompt groups: checks t_0 and the length limits, and chooses the pair of the pairwise methods.

Knows a tokenizer and tables; no model, no files.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from rao_kedro.data.quarantine import (
    NoGroupsLeftError,
    QuarantineReason,
    UnusableRow,
    quarantined_row,
    quarantined_table,
)
from rao_kedro.errors import DataError, ModelError
from rao_kedro.models.chat import common_prefix, prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import ChatFormat


@dataclass(frozen=True)
class TokenLimits:
    """Limits on the tokens of a group.

    Attributes:
        max_prompt_tokens: Longer prompts are quarantined. They are never cut, since that would cut t_0.
        max_response_tokens: Longer responses are dropped; the group is kept if it still holds a preference.
        t0_length: Tokens of the prefix t_0 that all prompts must share.
    """

    max_prompt_tokens: int
    max_response_tokens: int
    t0_length: int = 1


Pairing = Literal["best_vs_random", "best_vs_worst"]


def tokenize_groups(
    preference_groups: pd.DataFrame, chat: ChatFormat, limits: TokenLimits, pairing: Pairing, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tokenise prompt groups.

    Some faults show only in the tokens, and such rows are quarantined: responses that are empty or equal after the
    template is applied, duplicate groups, and training prompts that are also held out.

    Args:
        preference_groups: Table of `PreferenceGroupTable`.
        chat: The policy's chat format.
        limits: Limits on the tokens of a group.
        pairing: The rejected response is a random one of those rated below the chosen one (the paper), or the worst.
        seed: Seeds the random pairing.

    Returns:
        Tables of `TokenizedGroupTable` and `QuarantineTable`.

    Raises:
        DataError: A split has no group left, or most prompts do not share t_0.
    """
    dropped: list[dict[str, str]] = []

    def drop(row: Mapping[str, Any], reason: QuarantineReason, detail: str) -> None:
        dropped.append(quarantined_row(str(row["source"]), reason, detail, row))

    prompts: list[tuple[dict[str, Any], list[int]]] = []
    for record in preference_groups.to_dict("records"):
        row = {str(k): v for k, v in record.items()}
        try:
            prompts.append((row, _prompt_ids(row, chat, limits)))
        except UnusableRow as problem:
            drop(row, problem.reason, problem.detail)
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    held_out = {tuple(ids) for row, ids in prompts if row["split"] != "train"}
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for row, prompt_ids in prompts:
        try:
            if row["split"] == "train" and tuple(prompt_ids) in held_out:
                raise UnusableRow(
                    QuarantineReason.HELD_OUT_PROMPT_IN_TRAIN, "a prompt of the held-out split has the same tokens"
                )
            responses, lost = _tokenize_responses(row, chat, limits)
            tokens = (tuple(prompt_ids), *(tuple(response.ids) for response in responses))
            if tokens in seen:
                raise UnusableRow(QuarantineReason.DUPLICATE_ROW, "an earlier group has the same tokens")
        except UnusableRow as problem:
            drop(row, problem.reason, problem.detail)
            continue
        seen.add(tokens)
        kept.append((row, _group(row, prompt_ids, responses, pairing, seed)))
        for reason, details in lost.items():
            count = f"{len(details)} of {len(row['responses'])} responses dropped, the group is kept"
            drop(row, reason, f"{count}: {details[0]}")
    sharing, strangers = _sharing_t0(kept, limits.t0_length)
    if len(strangers) > len(sharing):
        longest = len(common_prefix([group["prompt_ids"] for _, group in kept]))
        advice = (
            f"set the global t0_length (data.t0_length) to {longest} or less, since all prompts share {longest} tokens"
            if longest
            else "they have no first token in common, which the chat template should put before every prompt"
        )
        raise DataError(
            f"{len(strangers)} of {len(kept)} prompts do not start with the most frequent {limits.t0_length} tokens, "
            f"so they share no t_0: {advice}. For example, {strangers[0][0]['group_id']} {strangers[0][1]}"
        )
    for row, detail in strangers:
        drop(row, QuarantineReason.PROMPT_NOT_T0, detail)
    left = {group["split"] for group in sharing}
    if empty := [split for split in preference_groups["split"].unique() if split not in left]:
        what = f"no prompt group is left for {' and '.join(empty)} after tokenising"
        ids = {group["group_id"] for group in sharing}
        kept_rows = preference_groups.loc[preference_groups["group_id"].isin(ids), "source"]
        raise NoGroupsLeftError(what, quarantined_table(dropped), set(kept_rows.astype(str)))
    return pd.DataFrame(sharing), quarantined_table(dropped)


@dataclass(frozen=True)
class _Response:
    text: str
    ids: list[int]
    rating: float
    finished: bool


def _prompt_ids(row: Mapping[str, Any], chat: ChatFormat, limits: TokenLimits) -> list[int]:
    try:
        ids = prompt_token_ids(chat, list(row["messages"]), every_message=True)
    except ModelError as error:
        raise UnusableRow(QuarantineReason.TEMPLATE_ERROR, str(error)) from error
    if not ids:
        raise UnusableRow(QuarantineReason.EMPTY_PROMPT, "the prompt has no tokens")
    if len(ids) > limits.max_prompt_tokens:
        detail = f"{len(ids)} tokens, max_prompt_tokens is {limits.max_prompt_tokens}"
        raise UnusableRow(QuarantineReason.PROMPT_TOO_LONG, detail)
    if len(ids) <= limits.t0_length:
        detail = f"{len(ids)} tokens, and t_0 has {limits.t0_length}: no token follows t_0"
        raise UnusableRow(QuarantineReason.PROMPT_NOT_T0, detail)
    return ids


def _tokenize_responses(
    row: Mapping[str, Any], chat: ChatFormat, limits: TokenLimits
) -> tuple[list[_Response], dict[QuarantineReason, list[str]]]:
    """Return the usable responses of a row, and details of the dropped ones by reason.

    Raises:
        UnusableRow: No preference is left; the reason is the most frequent one.
    """
    usable: list[_Response] = []
    lost: dict[QuarantineReason, list[str]] = {}
    for text, rating, finished in zip(row["responses"], row["ratings"], row["finished"], strict=True):
        try:
            ids = _response_ids(row, text, bool(finished), chat, limits)
            if any(ids == other.ids for other in usable):
                raise UnusableRow(QuarantineReason.IDENTICAL_RESPONSES, "an earlier response has the same tokens")
            usable.append(_Response(text, ids, float(rating), bool(finished)))
        except UnusableRow as problem:
            lost.setdefault(problem.reason, []).append(problem.detail)
    if len({response.rating for response in usable}) < 2:
        reason = max(lost, key=lambda reason: len(lost[reason]), default=QuarantineReason.EQUAL_RATINGS)
        details = "; ".join(detail for of_reason in lost.values() for detail in of_reason)
        raise UnusableRow(reason, f"no preference is left of {len(row['responses'])} responses: {details}")
    return usable, lost


def _response_ids(
    row: Mapping[str, Any], text: str, finished: bool, chat: ChatFormat, limits: TokenLimits
) -> list[int]:
    try:
        ids = response_token_ids(chat, list(row["messages"]), text, finished)
    except ModelError as error:
        raise UnusableRow(QuarantineReason.TEMPLATE_ERROR, str(error)) from error
    if set(ids) <= set(chat.end_of_turn_ids):
        raise UnusableRow(QuarantineReason.EMPTY_RESPONSE, "a response has no tokens except its end-of-turn token")
    if len(ids) > limits.max_response_tokens:
        detail = f"{len(ids)} tokens, max_response_tokens is {limits.max_response_tokens}"
        raise UnusableRow(QuarantineReason.RESPONSE_TOO_LONG, detail)
    return ids


def _group(
    row: Mapping[str, Any], prompt_ids: list[int], responses: Sequence[_Response], pairing: Pairing, seed: int
) -> dict[str, Any]:
    """Return a row of `TokenizedGroupTable`."""
    ratings = [response.rating for response in responses]
    chosen, rejected = choose_pair(ratings, pairing, random.Random(f"{seed}-{row['group_id']}"))
    return {
        "group_id": row["group_id"],
        "split": row["split"],
        "messages": list(row["messages"]),
        "responses": [response.text for response in responses],
        "requirements": row["requirements"],
        "prompt_ids": prompt_ids,
        "response_ids": [response.ids for response in responses],
        "ratings": ratings,
        "finished": [response.finished for response in responses],
        "chosen": chosen,
        "rejected": rejected,
    }


def choose_pair(ratings: Sequence[float], pairing: Pairing, rng: random.Random) -> tuple[int, int]:
    """Return the positions of the chosen (best rated, the first of equals) and the rejected response.

    Raises:
        DataError: All ratings are equal, so there is no preference.
    """
    chosen = max(range(len(ratings)), key=lambda i: ratings[i])
    worse = [i for i, rating in enumerate(ratings) if rating < ratings[chosen]]
    if not worse:
        raise DataError(f"all ratings are {ratings[chosen]}: there is no rejected response")
    return chosen, rng.choice(worse) if pairing == "best_vs_random" else min(worse, key=lambda i: ratings[i])


def response_order(chosen: int, rejected: int, n_responses: int) -> list[int]:
    """Return the positions of a group's responses in the order of training: chosen, rejected, then the others."""
    return [chosen, rejected, *(i for i in range(n_responses) if i not in (chosen, rejected))]


def _sharing_t0(
    groups: Sequence[tuple[dict[str, Any], dict[str, Any]]], t0_length: int
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], str]]]:
    """Return the groups that start with the most frequent t_0, and the other rows with their own beginnings."""
    starts = [tuple(group["prompt_ids"][:t0_length]) for _, group in groups]
    if not starts:
        return [], []
    t0 = Counter(starts).most_common(1)[0][0]
    strangers = [
        (row, f"starts with tokens {list(start)}, t_0 is {list(t0)}")
        for (row, _), start in zip(groups, starts, strict=True)
        if start != t0
    ]
    return [group for (_, group), start in zip(groups, starts, strict=True) if start == t0], strangers


def longest_t0(tokenized_groups: pd.DataFrame) -> list[int]:
    """Return the longest token prefix that all prompts share: the longest t_0 that could be chosen."""
    return common_prefix([list(ids) for ids in tokenized_groups["prompt_ids"]])
