"""Real rows as token ids, for the engine's benchmark: what both trainers are given."""

from itertools import combinations
from pathlib import Path

import pandas as pd

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.formats import FORMATS
from rao_kedro.data.raw_groups import RawGroup
from rao_kedro.data.readers import read_rows
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format

MAX_TOKENS = 480  # of a prompt with its longest response


def ultrafeedback_groups(path: Path, model_dir: Path, n: int) -> pd.DataFrame:
    """Return the first `n` pairs that are short enough."""
    source = PreferenceSource(path=str(path), format="trl")
    return _table(_short_groups(source, model_dir, k=2, max_tokens=MAX_TOKENS)[:n])


def rated_groups(path: Path, model_dir: Path, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the first `n` prompts with four differently rated responses, and the same responses as all pairs."""
    source = PreferenceSource(path=str(path), format="rated", rating_key="gpt4turbo_preference")
    groups = _short_groups(source, model_dir, k=4, max_tokens=MAX_TOKENS)[:n]
    pairs = [
        (prompt, [responses[i], responses[j]], [ratings[i], ratings[j]])
        for prompt, responses, ratings in groups
        for i, j in combinations(range(4), 2)
    ]
    return _table(groups), _table(pairs)


Group = tuple[list[int], list[list[int]], list[float]]


def _short_groups(source: PreferenceSource, model_dir: Path, k: int, max_tokens: int) -> list[Group]:
    chat = load_chat_format(model_dir)
    groups = []
    for row in read_rows(source):
        raw: RawGroup = FORMATS[source.format].read(row.content, rating_key=source.rating_key)
        prompt = prompt_token_ids(chat, raw.messages)
        kept: dict[float, list[int]] = {}  # by rating, so that no two are equal
        for response, rating in zip(raw.responses, raw.ratings, strict=True):
            if not isinstance(response, str):
                continue
            ids = response_token_ids(chat, raw.messages, response)
            if rating is not None and response.strip() and len(prompt) + len(ids) < max_tokens:
                kept.setdefault(rating, ids)
        if len(kept) >= k:
            chosen = dict(list(kept.items())[:k])
            groups.append((prompt, list(chosen.values()), list(chosen)))
    return groups


def _table(groups: list[Group]) -> pd.DataFrame:
    rows = []
    for i, (prompt, responses, ratings) in enumerate(groups):
        order = sorted(range(len(ratings)), key=ratings.__getitem__)
        rows.append(
            {
                "group_id": f"g{i}",
                "split": "train",
                "prompt_ids": prompt,
                "response_ids": responses,
                "ratings": ratings,
                "rewards": ratings,
                "chosen": order[-1],
                "rejected": order[0],
            }
        )
    return pd.DataFrame(rows)
