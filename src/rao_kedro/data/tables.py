"""Schemas of the catalog's tables; Kedro checks them on load and on save."""

import math
from collections.abc import Sequence

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

# Training evaluates on `validation`, which may choose a checkpoint; `test` is only reported.
SPLITS = ["train", "validation", "test"]
# Of generated text: the model ended it, or it was cut at its token limit.
FINISH_REASONS = ["stop", "length"]


def _numbers_are_finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


class Table(pa.DataFrameModel):
    """A table without missing and without unknown columns."""

    class Config:
        """Pandera's settings."""

        strict = True


class PromptTable(Table):
    """One row per prompt that responses are sampled for; `requirements` are checks of `rao_kedro.data.requirements`."""

    prompt_id: Series[str] = pa.Field(unique=True)
    template: Series[str]
    split: Series[str] = pa.Field(isin=["train", "test"])
    messages: Series[object]
    requirements: Series[object]


class EvaluationPromptTable(Table):
    """One row per prompt of the evaluation; `requirements` as JSON, "[]" where nothing can be checked."""

    prompt_id: Series[str] = pa.Field(unique=True)
    messages: Series[object]
    requirements: Series[str]


class PreferenceGroupTable(Table):
    """One row per prompt: its messages, K >= 2 responses, their ratings, and whether each was finished.

    `rated_by` says what the ratings are: the fields of the data that they come from.
    """

    group_id: Series[str] = pa.Field(unique=True)
    split: Series[str] = pa.Field(isin=SPLITS)
    messages: Series[object]
    responses: Series[object]
    ratings: Series[object]
    finished: Series[object]
    source: Series[str]
    requirements: Series[str]
    rated_by: Series[str] | None

    @pa.check("responses", element_wise=True, error="a prompt group has at least two responses")
    def _two_responses(cls, responses: Sequence[str]) -> bool:
        return len(responses) >= 2

    @pa.check("ratings", element_wise=True, error="ratings are finite numbers")
    def _finite_ratings(cls, ratings: Sequence[float]) -> bool:
        return _numbers_are_finite(ratings)


class QuarantineTable(Table):
    """One row per dropped input row: where it stood, why it was dropped, and what it said."""

    source: Series[str]
    reason: Series[str]
    detail: Series[str]
    row: Series[str]


class TokenizedGroupTable(Table):
    """One row per prompt group, as text and as token ids; `chosen` and `rejected` are positions in `response_ids`.

    `finished` says which responses came to their end: these, and no others, have an end-of-turn token.
    """

    group_id: Series[str] = pa.Field(unique=True)
    split: Series[str] = pa.Field(isin=SPLITS)
    messages: Series[object]
    responses: Series[object]
    requirements: Series[str]
    prompt_ids: Series[object]
    response_ids: Series[object]
    ratings: Series[object]
    finished: Series[object]
    chosen: Series[int] = pa.Field(ge=0)
    rejected: Series[int] = pa.Field(ge=0)

    @pa.check("response_ids", element_wise=True, error="no response is empty")
    def _no_empty_response(cls, response_ids: Sequence[Sequence[int]]) -> bool:
        return all(len(ids) > 0 for ids in response_ids)

    @pa.dataframe_check(error="every response has a rating and `finished`; chosen is rated above rejected")
    def _consistent(cls, table: pd.DataFrame) -> pd.Series:
        columns = (table[name] for name in ("ratings", "finished", "response_ids", "chosen", "rejected"))
        consistent = [
            len(ratings) == len(finished) == len(ids) and ratings[chosen] > ratings[rejected]
            for ratings, finished, ids, chosen, rejected in zip(*columns, strict=True)
        ]
        return pd.Series(consistent, index=table.index, dtype=bool)


class RatedGroupTable(TokenizedGroupTable):
    """Tokenised groups whose ratings stand in for rewards."""

    rewards: Series[object]


class AnnotatedGroupTable(TokenizedGroupTable):
    """Tokenised groups with a reward per response, and what gave it.

    `rewards` are those to train with, `raw_rewards` as they were given, and `reward_transforms` the JSON list of what
    made the first of the second, in order: clip (low, high), standardise (mean, std); it is the same in every row.
    `truncated` says which responses were read in part only. Mean, standard deviation and quantiles
    (`rewards.annotation.QUANTILES`) are those of all rewards of the table.
    """

    raw_rewards: Series[object]
    truncated: Series[object]
    reward_model: Series[str]
    reward_transforms: Series[str]
    rewards: Series[object]
    reward_mean: Series[float]
    reward_std: Series[float] = pa.Field(ge=0)
    reward_quantiles: Series[object]

    @pa.check("rewards", element_wise=True, error="rewards are finite numbers")
    def _finite_rewards(cls, rewards: Sequence[float]) -> bool:
        return _numbers_are_finite(rewards)


class ReferenceLogProbTable(Table):
    """Log-probs of prompts and responses under the reference model, in nats, and the content key they belong to."""

    group_id: Series[str] = pa.Field(unique=True)
    prompt_logp: Series[float] = pa.Field(le=0)
    response_logps: Series[object]
    key: Series[str]
