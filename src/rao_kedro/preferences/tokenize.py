"""Prompt groups as token ids: t_0 check, length limits, and which pair the pairwise methods take.

Knows a tokenizer and tables; no model, no files.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from rao_kedro.errors import DataError, ModelError
from rao_kedro.models.chat import common_prefix, prompt_token_ids, response_token_ids
from rao_kedro.preferences.quarantine import QuarantineReason, UnusableRow, quarantined_row, quarantined_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenLimits:
    """What fits.

    Attributes:
        max_prompt_tokens: Longer prompts are quarantined, never cut: that would cut t_0.
        max_response_tokens: Longer responses are dropped; the group is kept where a preference is left.
        t0_length: Tokens of the prefix t_0 that all prompts must share.
    """

    max_prompt_tokens: int
    max_response_tokens: int
    t0_length: int = 1


Pairing = Literal["best_vs_random", "best_vs_worst"]


def tokenize_groups(
    preference_groups: pd.DataFrame,
    tokenizer: "PreTrainedTokenizerBase",
    limits: TokenLimits,
    pairing: Pairing,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tokenise prompt groups.

    Args:
        preference_groups: Table of `PreferenceGroups`.
        tokenizer: With a chat template.
        limits: What fits.
        pairing: The rejected response is one of the others at random (the paper), or the worst rated.
        seed: Seeds the random pairing.

    Returns:
        Tables of `TokenizedGroups` and `QuarantinedRows`.

    Raises:
        DataError: No group is left, or most prompts do not share t_0.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, str]] = []
    for record in preference_groups.to_dict("records"):
        row = {str(k): v for k, v in record.items()}
        try:
            group, too_long = _tokenize_group(row, tokenizer, limits, pairing, seed)
        except UnusableRow as problem:
            dropped.append(quarantined_row(str(row["source"]), problem.reason, problem.detail, row))
            continue
        kept.append(group)
        if too_long:
            detail = f"{too_long} of {len(row['responses'])} responses dropped, the group is kept"
            dropped.append(quarantined_row(str(row["source"]), QuarantineReason.RESPONSE_TOO_LONG, detail, row))
    kept, strangers = _sharing_t0(kept, limits.t0_length)
    if len(strangers) > len(kept):
        raise DataError(
            f"{len(strangers)} of {len(strangers) + len(kept)} prompts do not start with the most frequent "
            f"{limits.t0_length} tokens, so they share no t_0: set data.t0_length to the length of what the chat "
            f"template puts before every prompt. For example, {strangers[0][0]} {strangers[0][1]}"
        )
    sources = preference_groups.set_index("group_id")
    for group_id, detail in strangers:
        stranger = sources.loc[group_id].to_dict()
        dropped.append(quarantined_row(str(stranger["source"]), QuarantineReason.PROMPT_NOT_T0, detail, stranger))
    if not kept:
        reasons = pd.Series([row["reason"] for row in dropped]).value_counts().to_dict()
        raise DataError(f"no prompt group is left after tokenising; quarantined rows by reason: {reasons}")
    return pd.DataFrame(kept), quarantined_table(dropped)


def _tokenize_group(
    row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", limits: TokenLimits, pairing: Pairing, seed: int
) -> tuple[dict[str, Any], int]:
    """Return a row of `TokenizedGroups`, and how many responses were too long for it."""
    messages, responses = list(row["messages"]), list(row["responses"])
    try:
        prompt_ids = prompt_token_ids(tokenizer, messages)
        response_ids = [response_token_ids(tokenizer, messages, response) for response in responses]
    except ModelError as error:
        raise UnusableRow(QuarantineReason.TEMPLATE_ERROR, str(error)) from error
    if len(prompt_ids) > limits.max_prompt_tokens:
        detail = f"{len(prompt_ids)} tokens, max_prompt_tokens is {limits.max_prompt_tokens}"
        raise UnusableRow(QuarantineReason.PROMPT_TOO_LONG, detail)
    fitting = [i for i, ids in enumerate(response_ids) if len(ids) <= limits.max_response_tokens]
    ratings = [float(row["ratings"][i]) for i in fitting]
    if len(set(ratings)) < 2:
        longest = max(map(len, response_ids))
        detail = f"{longest} tokens, max_response_tokens is {limits.max_response_tokens}; no preference is left"
        raise UnusableRow(QuarantineReason.RESPONSE_TOO_LONG, detail)
    chosen, rejected = choose_pair(ratings, pairing, random.Random(f"{seed}-{row['group_id']}"))
    group = {
        "group_id": row["group_id"],
        "split": row["split"],
        "messages": messages,
        "responses": [responses[i] for i in fitting],
        "requirements": row["requirements"],
        "prompt_ids": prompt_ids,
        "response_ids": [response_ids[i] for i in fitting],
        "ratings": ratings,
        "chosen": chosen,
        "rejected": rejected,
    }
    return group, len(responses) - len(fitting)


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
    """Return the positions of a group's responses as training takes them: chosen, rejected, the others behind."""
    return [chosen, rejected, *(i for i in range(n_responses) if i not in (chosen, rejected))]


def _sharing_t0(groups: list[dict[str, Any]], t0_length: int) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Split groups into those whose prompts start with the most frequent t_0, and the others with what they show."""
    starts = pd.Series([tuple(group["prompt_ids"][:t0_length]) for group in groups], dtype=object)
    if starts.empty:
        return [], []
    t0 = starts.value_counts().index[0]
    strangers = [
        (group["group_id"], f"starts with tokens {list(start)}, t_0 is {list(t0)}")
        for group, start in zip(groups, starts, strict=True)
        if start != t0
    ]
    return [group for group, start in zip(groups, starts, strict=True) if start == t0], strangers


def longest_t0(tokenized_groups: pd.DataFrame) -> list[int]:
    """Return the longest token prefix that all prompts share: the longest t_0 that could be chosen."""
    return common_prefix([list(ids) for ids in tokenized_groups["prompt_ids"]])
