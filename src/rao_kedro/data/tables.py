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


class _Table(pa.DataFrameModel):
    class Config:
        """No column is missing, and none is there that nobody knows of."""

        strict = True


class Prompts(_Table):
    """One row per prompt that responses are sampled for; `requirements` are checks of `rao_kedro.data.requirements`."""

    prompt_id: Series[str] = pa.Field(unique=True)
    template: Series[str]
    split: Series[str] = pa.Field(isin=["train", "test"])
    messages: Series[object]
    requirements: Series[object]


class EvaluationPrompts(_Table):
    """One row per prompt of the evaluation; `requirements` as JSON, "[]" where nothing can be checked."""

    prompt_id: Series[str] = pa.Field(unique=True)
    messages: Series[object]
    requirements: Series[str]


class PreferenceGroups(_Table):
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


class QuarantinedRows(_Table):
    """One row per dropped input row: where it stood, why it was dropped, and what it said."""

    source: Series[str]
    reason: Series[str]
    detail: Series[str]
    row: Series[str]


class TokenizedGroupTable(_Table):
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


class RewardAnnotated(TokenizedGroupTable):
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


class ReferenceLogprobs(_Table):
    """Log-probs of prompts and responses under the reference model, in nats, and the content key they belong to."""

    group_id: Series[str] = pa.Field(unique=True)
    prompt_logp: Series[float] = pa.Field(le=0)
    response_logps: Series[object]
    key: Series[str]


class Generations(_Table):
    """One row per prompt and sample: what a policy wrote. `n_tokens` counts the end-of-turn token."""

    prompt_id: Series[str]
    sample: Series[int] = pa.Field(ge=0)
    messages: Series[object]
    requirements: Series[str]
    response: Series[str]
    n_tokens: Series[int] = pa.Field(ge=1)
    finish_reason: Series[str] = pa.Field(isin=FINISH_REASONS)
    response_ids: Series[object]
    prompt_ids: Series[object]


class ScoredGenerations(_Table):
    """One row per prompt and sample, with its scores; log-probs are sums over the response in nats.

    `reward_failure` says why there is no reward; it is empty where there is one.
    """

    prompt_id: Series[str]
    sample: Series[int] = pa.Field(ge=0)
    prompt: Series[str]
    response: Series[str]
    n_tokens: Series[int] = pa.Field(ge=1)
    finish_reason: Series[str] = pa.Field(isin=FINISH_REASONS)
    rule_score: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    reward: Series[float] = pa.Field(nullable=True)
    reward_failure: Series[str]
    logp: Series[float] = pa.Field(le=0)
    reference_logp: Series[float] = pa.Field(le=0)


class HeldOutLogps(_Table):
    """One row per `test` group, the chosen response first: rewards, and log-probs under policy and reference."""

    group_id: Series[str] = pa.Field(unique=True)
    rewards: Series[object]
    logps: Series[object]
    reference_logps: Series[object]


class Leaderboard(_Table):
    """One row per method, with 95 % intervals; gains and wins are paired with SFT's by prompt.

    `*_low` and `*_high` are over held-out prompts, whose values are means over the method's `seeds` training seeds;
    `*_seeds_low` and `*_seeds_high` are over seeds, and missing for one. `rule_score` is over the `n_rule_score`
    prompts with requirements, and `reward` over the `n_reward` ones with a reward. `judge` says which of both
    judges `win_rate_vs_sft`, on `n_judged` prompts: the rules where any prompt has requirements. `cut` is the share
    of responses that ended at the token limit, and `gain_finished` the gain by the judge of the other responses, on
    the `n_finished` prompts on which both the method and SFT have such. `unscored` counts responses that got no
    reward, which leave rewards and the wins by them to the others. `responses_seen` is the mean number of responses
    to a prompt that a method was trained on, where its log says it.
    """

    method: Series[str] = pa.Field(unique=True)
    seeds: Series[int] = pa.Field(ge=1)
    n: Series[int] = pa.Field(ge=1)
    judge: Series[str] = pa.Field(isin=["rule_score", "reward"])
    n_rule_score: Series[int] = pa.Field(ge=0)
    rule_score: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    rule_score_low: Series[float] = pa.Field(nullable=True)
    rule_score_high: Series[float] = pa.Field(nullable=True)
    rule_score_seeds_low: Series[float] = pa.Field(nullable=True)
    rule_score_seeds_high: Series[float] = pa.Field(nullable=True)
    rule_score_gain: Series[float] = pa.Field(nullable=True)
    rule_score_gain_low: Series[float] = pa.Field(nullable=True)
    rule_score_gain_high: Series[float] = pa.Field(nullable=True)
    rule_score_gain_seeds_low: Series[float] = pa.Field(nullable=True)
    rule_score_gain_seeds_high: Series[float] = pa.Field(nullable=True)
    n_reward: Series[int] = pa.Field(ge=0)
    reward: Series[float] = pa.Field(nullable=True)
    reward_low: Series[float] = pa.Field(nullable=True)
    reward_high: Series[float] = pa.Field(nullable=True)
    reward_seeds_low: Series[float] = pa.Field(nullable=True)
    reward_seeds_high: Series[float] = pa.Field(nullable=True)
    reward_gain: Series[float] = pa.Field(nullable=True)
    reward_gain_low: Series[float] = pa.Field(nullable=True)
    reward_gain_high: Series[float] = pa.Field(nullable=True)
    reward_gain_seeds_low: Series[float] = pa.Field(nullable=True)
    reward_gain_seeds_high: Series[float] = pa.Field(nullable=True)
    reward_win_rate_vs_sft: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    reward_win_rate_vs_sft_low: Series[float] = pa.Field(nullable=True)
    reward_win_rate_vs_sft_high: Series[float] = pa.Field(nullable=True)
    reward_win_rate_vs_sft_seeds_low: Series[float] = pa.Field(nullable=True)
    reward_win_rate_vs_sft_seeds_high: Series[float] = pa.Field(nullable=True)
    n_judged: Series[int] = pa.Field(ge=0)
    win_rate_vs_sft: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    win_rate_vs_sft_low: Series[float] = pa.Field(nullable=True)
    win_rate_vs_sft_high: Series[float] = pa.Field(nullable=True)
    win_rate_vs_sft_seeds_low: Series[float] = pa.Field(nullable=True)
    win_rate_vs_sft_seeds_high: Series[float] = pa.Field(nullable=True)
    cut: Series[float] = pa.Field(ge=0, le=1)
    n_finished: Series[int] = pa.Field(ge=0)
    gain_finished: Series[float] = pa.Field(nullable=True)
    gain_finished_low: Series[float] = pa.Field(nullable=True)
    gain_finished_high: Series[float] = pa.Field(nullable=True)
    gain_finished_seeds_low: Series[float] = pa.Field(nullable=True)
    gain_finished_seeds_high: Series[float] = pa.Field(nullable=True)
    mean_length: Series[float] = pa.Field(ge=0)
    kl_to_reference: Series[float] = pa.Field(nullable=True)
    chosen_likelihood_fell: Series[float] = pa.Field(ge=0, le=1)
    unscored: Series[int] = pa.Field(ge=0)
    responses_seen: Series[float] = pa.Field(nullable=True, ge=1)


class BenchmarkAnswers(_Table):
    """One row per item and turn of a judged benchmark: what a model answered, apart from what it thought before.

    `finish_reason` is "length" where the response was cut at its token limit; a cut thought has no answer, "".
    `unscored_reason` says why a server gave no response; such an item is not judged.
    """

    method: Series[str]
    benchmark: Series[str]
    item_id: Series[str]
    turn: Series[int] = pa.Field(ge=1)
    prompt: Series[str]
    answer: Series[str]
    thinking: Series[str]
    finish_reason: Series[str] = pa.Field(isin=FINISH_REASONS)
    unscored_reason: Series[str]


class DownstreamScores(_Table):
    """One row per downstream task (`task::subject` of a group's parts) and metric, with a 95 % interval.

    Tasks of lm-evaluation-harness itself are `lm_eval/...`, and their metrics have its names. `is_share` says whether
    the value is a share of items, which reports show in percent. `unparsed` counts outputs without an answer, which are
    wrong; `cut` is the share of responses that were cut at their token limit, missing where none was written. Chance is
    missing where it is not known, an interval where there is none, `num_fewshot` where parts of a group differ.
    """

    method: Series[str]
    task: Series[str]
    metric: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    is_share: Series[bool]
    stderr: Series[float] = pa.Field(nullable=True)
    low: Series[float] = pa.Field(nullable=True)
    high: Series[float] = pa.Field(nullable=True)
    n: Series[int] = pa.Field(ge=1)
    unparsed: Series[int] = pa.Field(ge=0)
    chance: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    cut: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    num_fewshot: Series[float] = pa.Field(nullable=True, ge=0)
    version: Series[str]

    @pa.dataframe_check(error="shares are between 0 and 1")
    def _shares(cls, table: pd.DataFrame) -> pd.Series:
        return ~table["is_share"].astype(bool) | table["value"].between(0, 1)


class DownstreamSamples(_Table):
    """One row per item of a downstream task and metric.

    `output` is the whole response, or the log-probs of the choices as JSON. `finish_reason` is missing where nothing
    was written, `extracted` where the output holds no answer, and `value` where the metric is no mean over items.
    `unscored_reason` says why a server gave no output, which counts as wrong.
    """

    method: Series[str]
    task: Series[str]
    metric: Series[str]
    item_id: Series[str]
    prompt: Series[str]
    output: Series[str]
    finish_reason: Series[str] = pa.Field(nullable=True, isin=FINISH_REASONS)
    extracted: Series[str] = pa.Field(nullable=True)
    gold: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    correct: Series[bool]
    unscored_reason: Series[str]


class AlpacaEvalAnnotations(_Table):
    """AlpacaEval's annotations, and the preference in the other order where it was asked for (see `alpaca_judge`).

    `generator_2` is the method. A second judge's rows follow the first one's. `unscored_reason` says why there is no
    `preference`: the model gave no output, or the judge's answer was refused, empty, filtered, cut or unreadable;
    `unscored_reason_swapped` the same of `preference_swapped`.
    """

    index: Series[int] = pa.Field(ge=0)
    instruction: Series[str]
    output_1: Series[str]
    generator_1: Series[str]
    output_2: Series[str]
    generator_2: Series[str]
    annotator: Series[str]
    preference: Series[float] = pa.Field(nullable=True, ge=1, le=2)
    preference_swapped: Series[float] = pa.Field(nullable=True, ge=1, le=2)
    is_switched_outputs: Series[bool]
    unscored_reason: Series[str]
    unscored_reason_swapped: Series[str]


class MTBenchJudgments(_Table):
    """One row per question and turn of MT-Bench; `unscored_reason` says why a `score` is missing."""

    method: Series[str]
    question_id: Series[int]
    category: Series[str]
    turn: Series[int] = pa.Field(ge=1, le=2)
    judge: Series[str]
    user_prompt: Series[str]
    judgment: Series[str]
    score: Series[float] = pa.Field(nullable=True)
    unscored_reason: Series[str]


class MTBenchComparisons(_Table):
    """One row per question and turn of MT-Bench: whether the judge prefers the method, "a", or SFT, "b".

    `winner_swapped` was asked for with SFT's answer in front, and calls that "a". The verdict is a tie where the orders
    disagree, and missing where a judgment holds none: `unscored_reason` says why.
    """

    method: Series[str]
    question_id: Series[int]
    category: Series[str]
    turn: Series[int] = pa.Field(ge=1, le=2)
    judge: Series[str]
    judgment: Series[str]
    judgment_swapped: Series[str]
    winner: Series[str] = pa.Field(nullable=True, isin=["a", "b", "tie"])
    winner_swapped: Series[str] = pa.Field(nullable=True, isin=["a", "b", "tie"])
    verdict: Series[str] = pa.Field(nullable=True, isin=["a", "b", "tie"])
    unscored_reason: Series[str]


class JudgeUsage(_Table):
    """What a judge took for one method: requests, tokens, and their cost at the prices of the parameters.

    `asked` counts the requests of this run, those that were refused included, and `prompt_tokens`, `completion_tokens`
    and `cost` are theirs. `reused` counts answers that were kept, from earlier runs or from another method with the
    same responses; the other `reused_*` say what these took when they were asked, with the failed attempts before.
    `identity` is what its answers were kept by: its name and server, or the content hash of one that was served here.
    """

    method: Series[str]
    benchmark: Series[str]
    judge: Series[str]
    identity: Series[str]
    asked: Series[int]
    prompt_tokens: Series[int]
    completion_tokens: Series[int]
    cost: Series[float]
    reused: Series[int]
    reused_prompt_tokens: Series[int]
    reused_completion_tokens: Series[int]
    reused_cost: Series[float]


class BenchmarkScores(_Table):
    """One row per method, benchmark and metric, with 95 % intervals over items; `vs_*` are paired by item.

    `low` and `high` are over items, whose values are means over the `seeds` training seeds; `seeds_low` and
    `seeds_high` are over seeds, and missing for one. Accuracies and win rates are in percent. `unscored` counts outputs
    and judgments that hold no answer, over all seeds; `cut` is the share of responses that ended at their token limit.
    """

    method: Series[str]
    benchmark: Series[str]
    metric: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    low: Series[float] = pa.Field(nullable=True)
    high: Series[float] = pa.Field(nullable=True)
    seeds_low: Series[float] = pa.Field(nullable=True)
    seeds_high: Series[float] = pa.Field(nullable=True)
    n: Series[int] = pa.Field(ge=0)
    seeds: Series[int] = pa.Field(ge=1)
    unscored: Series[int] = pa.Field(ge=0)
    cut: Series[float] = pa.Field(nullable=True, ge=0, le=1)
    judge: Series[str]
    chance: Series[float] = pa.Field(nullable=True)
    vs_sft: Series[float] = pa.Field(nullable=True)
    vs_sft_low: Series[float] = pa.Field(nullable=True)
    vs_sft_high: Series[float] = pa.Field(nullable=True)
    vs_sft_seeds_low: Series[float] = pa.Field(nullable=True)
    vs_sft_seeds_high: Series[float] = pa.Field(nullable=True)
    vs_dpo: Series[float] = pa.Field(nullable=True)
    vs_dpo_low: Series[float] = pa.Field(nullable=True)
    vs_dpo_high: Series[float] = pa.Field(nullable=True)
    vs_dpo_seeds_low: Series[float] = pa.Field(nullable=True)
    vs_dpo_seeds_high: Series[float] = pa.Field(nullable=True)


class JudgeReport(_Table):
    """One row per method and property of the judge that compared it (see `rao_kedro.judges.bias`)."""

    method: Series[str]
    judge: Series[str]
    metric: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    low: Series[float] = pa.Field(nullable=True)
    high: Series[float] = pa.Field(nullable=True)
    n: Series[int] = pa.Field(ge=0)

    class Config:
        """Without a judge there are no rows, and a CSV of none has no types."""

        strict = True
        coerce = True
