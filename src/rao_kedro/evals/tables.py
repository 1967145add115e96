"""Schemas of the evaluation's tables; Kedro validates them on load and on save.

The tables of a benchmark stand with it: `alpaca_eval.tables`, `mt_bench.tables`, `downstream.tables`.
"""

import pandera.pandas as pa
from pandera.typing import Series

from rao_kedro.data.tables import FINISH_REASONS, Table


class GenerationTable(Table):
    """One row per prompt and sample: a policy's response. `n_tokens` includes the end-of-turn token."""

    prompt_id: Series[str]
    sample: Series[int] = pa.Field(ge=0)
    messages: Series[object]
    requirements: Series[str]
    response: Series[str]
    n_tokens: Series[int] = pa.Field(ge=1)
    finish_reason: Series[str] = pa.Field(isin=FINISH_REASONS)
    response_ids: Series[object]
    prompt_ids: Series[object]


class ScoredGenerationTable(Table):
    """One row per prompt and sample: a response with its scores. Log-probs are sums over the response, in nats.

    `reward_failure` says why there is no reward; it is "" where there is one.
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


class HeldOutLogProbTable(Table):
    """One row per group of the split `test`: rewards, and log-probs in nats under policy and reference.

    The first entry of each list belongs to the chosen response.
    """

    group_id: Series[str] = pa.Field(unique=True)
    rewards: Series[object]
    logps: Series[object]
    reference_logps: Series[object]


class LeaderboardTable(Table):
    """One row per method, with 95 % intervals; gains and wins are paired with SFT's by prompt.

    `*_low` and `*_high` are over held-out prompts; the value of a prompt is the mean over the method's `seeds` training
    seeds. `*_seeds_low` and `*_seeds_high` are over seeds, and missing for one seed. `rule_score` is over the
    `n_rule_score` prompts with requirements, `reward` over the `n_reward` prompts with a reward. `judge` is the score
    that decides `win_rate_vs_sft`, on `n_judged` prompts: the rules where any prompt has requirements, else the reward.
    `cut` is the share of responses that were cut at the token limit. `gain_finished` is the gain of the other
    responses, on the `n_finished` prompts where both the method and SFT have such. `unscored` counts responses without
    a reward; means and wins leave them out. `rounds` is the number of on-policy rounds, 0 where there were none.
    `responses_seen` is the mean number of responses per prompt that a method was trained on, in rounds that of the last
    one; it is missing where the training log does not have it.
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
    rounds: Series[int] = pa.Field(ge=0)
    responses_seen: Series[float] = pa.Field(nullable=True, ge=1)


class BenchmarkResponseTable(Table):
    """One row per item and turn of a judged benchmark: a model's answer, apart from the thinking before it.

    `finish_reason` is "length" where the response was cut at its token limit. A response that was cut while thinking
    has the answer "". `unscored_reason` says why a server gave no response; such an item is not judged.
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


class JudgeUsageTable(Table):
    """One row per method, benchmark and judge: requests, tokens, and their cost at the prices of the parameters.

    `asked` counts the requests of this run, refused ones included; `prompt_tokens`, `completion_tokens` and `cost` are
    theirs. `reused` counts judgments that were kept, from earlier runs or from another method with the same responses;
    the other `reused_*` columns are what these took when they were asked, failed attempts included. `identity` is the
    judge in the key of a kept judgment: its name and server, or the content hash of a model that was served here.
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


class BenchmarkScoreTable(Table):
    """One row per method, benchmark and metric, with 95 % intervals; `vs_*` are differences, paired by item.

    `low` and `high` are over items; the value of an item is the mean over the `seeds` training seeds. `seeds_low` and
    `seeds_high` are over seeds, and missing for one seed. Accuracies and win rates are in percent. `unscored` counts
    responses and judgments from which no answer could be read, over all seeds. `cut` is the share of responses that
    were cut at the token limit.
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


class JudgeReportTable(Table):
    """One row per method and property of its judge: position bias, length bias, agreement (`rao_kedro.judges.bias`)."""

    method: Series[str]
    judge: Series[str]
    metric: Series[str]
    value: Series[float] = pa.Field(nullable=True)
    low: Series[float] = pa.Field(nullable=True)
    high: Series[float] = pa.Field(nullable=True)
    n: Series[int] = pa.Field(ge=0)

    class Config:
        """Without a judge there are no rows, and an empty CSV file has no types: they are restored."""

        strict = True
        coerce = True
