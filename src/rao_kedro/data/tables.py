"""Schemas of the data's tables; Kedro validates them when it loads and when it saves."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series

# Training evaluates on `validation`, which may choose a checkpoint; `test` is only reported.
SPLITS = ["train", "validation", "test"]
# The model ended the response, or it was cut at its token limit.
FINISH_REASONS = ["stop", "length"]


def _numbers_are_finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) for value in values)


class Table(pa.DataFrameModel):
    """A table with all columns of its schema and no others."""

    class Config:
        """Pandera's settings."""

        strict = True


class PromptTable(Table):
    """One row per prompt to sample responses for; `requirements` lists checks of `rao_kedro.data.requirements`."""

    prompt_id: Series[str] = pa.Field(unique=True)
    template: Series[str]
    split: Series[str] = pa.Field(isin=["train", "test"])
    messages: Series[object]
    requirements: Series[object]


class EvaluationPromptTable(Table):
    """One row per evaluation prompt; `requirements` is a JSON list, which is empty if nothing can be checked."""

    prompt_id: Series[str] = pa.Field(unique=True)
    messages: Series[object]
    requirements: Series[str]


class PreferenceGroupTable(Table):
    """One row per prompt: its messages, K >= 2 responses, their ratings, and whether each was finished.

    `rated_by` names the fields of the data that the ratings come from. `earlier_turns` are, per response, its messages
    before the last one, which `responses` holds; null if all responses have one turn.
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
    earlier_turns: Series[object] | None = pa.Field(nullable=True)

    @pa.check("responses", element_wise=True, error="a prompt group has at least two responses")
    def _two_responses(cls, responses: Sequence[str]) -> bool:
        return len(responses) >= 2

    @pa.check("ratings", element_wise=True, error="ratings are finite numbers")
    def _finite_ratings(cls, ratings: Sequence[float]) -> bool:
        return _numbers_are_finite(ratings)


class QuarantineTable(Table):
    """One row per quarantined input row: its source, the reason, a detail, and its beginning."""

    source: Series[str]
    reason: Series[str]
    detail: Series[str]
    row: Series[str]


class ConversationTable(Table):
    """One row per conversation: its messages, which end with the assistant's.

    `dropped_user_turn` says whether the source goes on with a turn of the user, and `other_replies` how many messages
    of a tree are not part of the conversation.
    """

    conversation_id: Series[str] = pa.Field(unique=True)
    split: Series[str] = pa.Field(isin=["train", "validation"])
    messages: Series[object]
    source: Series[str]
    dropped_user_turn: Series[bool]
    other_replies: Series[int] = pa.Field(ge=0, coerce=True)


class TokenizedConversationTable(Table):
    """One row per conversation as token ids; `learned` says of each token whether the assistant writes it.

    `turns` are the assistant's, and `cut_turns` those that were cut off, since the conversation was too long.
    """

    conversation_id: Series[str] = pa.Field(unique=True)
    split: Series[str] = pa.Field(isin=["train", "validation"])
    ids: Series[object]
    learned: Series[object]
    turns: Series[int] = pa.Field(ge=1, coerce=True)
    cut_turns: Series[int] = pa.Field(ge=0, coerce=True)

    @pa.dataframe_check(error="every token is learned or not, the first one is not, and the last one is")
    def _consistent(cls, table: pd.DataFrame) -> pd.Series:
        consistent = [
            len(ids) == len(learned) and not learned[0] and bool(learned[-1])
            for ids, learned in zip(table["ids"], table["learned"], strict=True)
        ]
        return pd.Series(consistent, index=table.index, dtype=bool)


def _of_each_group(table: pd.DataFrame, pair: Callable[[float, float], bool]) -> pd.Series:
    """Return whether each group has ratings and `finished` of all responses, and the ratings of its pair are right."""
    columns = (table[name] for name in ("ratings", "finished", "response_ids", "chosen", "rejected"))
    consistent = [
        len(ratings) == len(finished) == len(ids) and pair(ratings[chosen], ratings[rejected])
        for ratings, finished, ids, chosen, rejected in zip(*columns, strict=True)
    ]
    return pd.Series(consistent, index=table.index, dtype=bool)


class TokenizedGroupTable(Table):
    """One row per prompt group, as text and as token ids; `chosen` and `rejected` are positions in `response_ids`.

    Responses that are `finished` end with an end-of-turn token, and no others do. `earlier_turns` are those of
    `PreferenceGroupTable`, and `learned` says, per response, which of its tokens the assistant writes; both are null if
    all responses have one turn.
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
    earlier_turns: Series[object] | None = pa.Field(nullable=True)
    learned: Series[object] | None = pa.Field(nullable=True)

    @pa.check("response_ids", element_wise=True, error="no response is empty")
    def _no_empty_response(cls, response_ids: Sequence[Sequence[int]]) -> bool:
        return all(len(ids) > 0 for ids in response_ids)

    @pa.dataframe_check(error="every response has a rating and `finished`; chosen is rated above rejected")
    def _consistent(cls, table: pd.DataFrame) -> pd.Series:
        return _of_each_group(table, lambda chosen, rejected: chosen > rejected)


class RatedGroupTable(TokenizedGroupTable):
    """Tokenised groups with their ratings as rewards."""

    rewards: Series[object]


class AnnotatedGroupTable(TokenizedGroupTable):
    """Tokenised groups with a reward per response, and its source.

    `raw_rewards` are those of the reward model, `rewards` those to train with. `reward_transforms` is the JSON list of
    the steps between them in their order (`rewards.transforms`); all rows have the same. `truncated` says per response
    whether the reward model read only a part of it. `reward_mean`, `reward_std` and `reward_quantiles`
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

    @pa.check("raw_rewards", "rewards", element_wise=True, error="rewards are finite numbers")
    def _finite_rewards(cls, rewards: Sequence[float]) -> bool:
        return _numbers_are_finite(rewards)


class SampledGroupTable(AnnotatedGroupTable):
    """What a round trains on: groups of responses that the policy sampled, and groups of the data.

    The ratings of sampled responses are their rewards. These may all be equal: then the first two are the pair.
    """

    @pa.dataframe_check(error="every response has a rating and `finished`; chosen is not rated below rejected")
    def _consistent(cls, table: pd.DataFrame) -> pd.Series:
        return _of_each_group(table, lambda chosen, rejected: chosen >= rejected)


class ReferenceLogProbTable(Table):
    """Log-probs of prompts and responses under the reference model, in nats, with the content key of their inputs."""

    group_id: Series[str] = pa.Field(unique=True)
    prompt_logp: Series[float] = pa.Field(le=0)
    response_logps: Series[object]
    key: Series[str]


class ReferenceRewardTable(Table):
    """Rewards of responses that the reference wrote to the prompt of each group, on the scale of the annotated ones.

    `raw_rewards` are those of the reward model, `rewards` those after the transforms of the `AnnotatedGroupTable`.
    Responses that could not be scored are left out, so that a list may be short, or empty. `prompt` is a digest of the
    prompt's token ids. `key` is a hash of the reference model, the reward and its transforms.
    """

    group_id: Series[str] = pa.Field(unique=True)
    prompt: Series[str]
    raw_rewards: Series[object]
    rewards: Series[object]
    key: Series[str]

    @pa.check("rewards", element_wise=True, error="rewards are finite numbers")
    def _finite_rewards(cls, rewards: Sequence[float]) -> bool:
        return _numbers_are_finite(rewards)


class LogZ0ReportTable(Table):
    """One row per choice of RAO's `log_z0`, in nats: `auto`, `estimated`, the paper's, and the parameter if a number.

    `standard_error` is over prompts. `jackknife_bias` is what the finite number of samples adds to the estimate.
    `mean_target_log_ratio` and `chosen_target_is_up` are those of the training responses at step 0.
    """

    log_z0: Series[str] = pa.Field(unique=True)
    value: Series[float]
    standard_error: Series[float] = pa.Field(nullable=True, ge=0)
    jackknife_bias: Series[float] = pa.Field(nullable=True)
    n_prompts: Series[int] = pa.Field(ge=0)
    n_samples: Series[int] = pa.Field(ge=0)
    mean_target_log_ratio: Series[float]
    chosen_target_is_up: Series[float] = pa.Field(ge=0, le=1)
