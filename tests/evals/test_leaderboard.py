"""Scores of methods on held-out prompts, by hand arithmetic and in simulation."""

import numpy as np
import pandas as pd
import pytest

from rao_kedro.config.generation import GenerationParameters
from rao_kedro.errors import DataError
from rao_kedro.evals.leaderboard import leaderboard, unequal_responses
from rao_kedro.evals.tables import LeaderboardTable
from rao_kedro.pipelines.evaluation.nodes import compare_methods


def generations(rule_scores, logp=-10.0, n_tokens=5, cut=()):
    """Two samples for each of the prompts; `cut` has the prompts and samples that ended at the token limit."""
    rows = [
        {
            "prompt_id": f"p{i}",
            "sample": k,
            "rule_score": score,
            "reward": 2 * score,
            "n_tokens": n_tokens,
            "finish_reason": "length" if (i, k) in cut else "stop",
            "logp": logp,
            "reference_logp": -12.0,
        }
        for i, samples in enumerate(rule_scores)
        for k, score in enumerate(samples)
    ]
    return pd.DataFrame(rows)


def held_out(*logps):
    rows = [{"group_id": f"g{i}", "rewards": [1, 0], "logps": [x, -9.0]} for i, x in enumerate(logps)]
    return pd.DataFrame(rows).assign(reference_logps=[[-5.0, -9.0]] * len(logps))


SFT = generations([(0.0, 1.0), (0.5, 0.5)], logp=-12.0)
HELD_OUT = {"sft": held_out(-5), "rao": held_out(-5)}
SEEN = {"rao": 3.8, "dpo": 2.0, "simpo": 2.0}
RAO = generations([(1.0, 1.0), (0.5, 0.0)], n_tokens=3)


@pytest.mark.parametrize(
    ("changed", "measured"),
    [
        ({}, True),
        (
            {"sampling": {"stop": ["###"], "max_tokens": 3, "n": 4}},
            True,
        ),  # responses end sooner; their tokens are the same
        ({"engine": {"data_parallel_size": 8}}, True),
        ({"sampling": {"temperature": 0.7}}, False),
        ({"sampling": {"temperature": 0}}, False),
        ({"sampling": {"top_p": 0.9}}, False),
        ({"sampling": {"top_k": 40}}, False),
        ({"sampling": {"min_p": 0.1}}, False),
        ({"sampling": {"repetition_penalty": 1.1}}, False),
        ({"engine": {"quantization": "fp8"}}, False),
    ],
)
def test_the_kl_divergence_is_only_given_of_samples_of_the_policy_itself(changed, measured, caplog):
    tables = {"scored_generations_sft": SFT, "held_out_logps_sft": held_out(-5, -5)}
    board = compare_methods(0, GenerationParameters(**changed), policies=["sft"], **tables)
    LeaderboardTable.validate(board)
    assert board["kl_to_reference"].tolist() == ([0.0] if measured else [pytest.approx(float("nan"), nan_ok=True)])
    assert ("kl_to_reference is NaN" in caplog.text) is not measured


def test_a_row_is_what_hand_arithmetic_gives():
    # rao: prompt means 1.0 and 0.25; sft: 0.5 and 0.5. Pairs of p0: (win, tie) twice = 0.75, of p1: tie twice and loss
    # twice = 0.25. KL = -10 - (-12). Of the chosen responses' log-probs -6, -4 against -5, one fell.
    table = leaderboard({"sft": SFT, "rao": RAO}, {"sft": held_out(-5, -5), "rao": held_out(-6, -4)}, seed=0)
    LeaderboardTable.validate(table)
    assert list(table["method"]) == ["rao", "sft"]
    rao = table.set_index("method").loc["rao"]
    expected = {
        "n": 2,
        "rule_score": 0.625,
        "rule_score_gain": 0.125,
        "reward": 1.25,
        "judge": "rule_score",
        "win_rate_vs_sft": 0.5,
        "n_judged": 2,
        "n_rule_score": 2,
        "n_reward": 2,
        "seeds": 1,
        "cut": 0,
        "mean_length": 3,
        "kl_to_reference": 2,
        "chosen_likelihood_fell": 0.5,
    }
    assert rao[list(expected)].to_dict() == pytest.approx(expected)


def test_sft_against_itself_neither_gains_nor_wins():
    row = leaderboard({"sft": SFT}, {"sft": held_out(-5, -5)}, seed=0).loc[0]
    assert (row["rule_score_gain"], row["rule_score_gain_low"], row["rule_score_gain_high"]) == (0, 0, 0)
    assert (row["win_rate_vs_sft"], row["kl_to_reference"], row["chosen_likelihood_fell"]) == (0.5, 0, 0)


def test_without_rules_the_reward_model_decides_the_wins_and_the_table_says_so():
    tables = {name: table.assign(rule_score=np.nan) for name, table in (("sft", SFT), ("rao", RAO))}
    table = LeaderboardTable.validate(leaderboard(tables, HELD_OUT, seed=0)).set_index("method")
    assert table.loc["rao", "win_rate_vs_sft"] == 0.5 and np.isnan(table.loc["rao", "rule_score"])
    assert table.loc["rao", ["judge", "n_judged", "n_rule_score"]].tolist() == ["reward", 2, 0]
    assert np.isnan(table.loc["sft", "rule_score_gain"]) and table.loc["sft", "reward_gain"] == 0


def test_one_prompt_without_requirements_leaves_the_rules_their_scores_and_their_wins():
    """p1 has no requirements: rules judge p0 alone, where rao wins 0.75 of the pairs; the reward judges both, 0.5."""
    tables = {name: table.copy() for name, table in (("sft", SFT), ("rao", RAO))}
    for table in tables.values():
        table.loc[table["prompt_id"] == "p1", "rule_score"] = np.nan
    rao = LeaderboardTable.validate(leaderboard(tables, HELD_OUT, seed=0)).set_index("method").loc["rao"]
    assert rao[["rule_score", "rule_score_gain", "n_rule_score"]].tolist() == [1.0, 0.5, 1]
    assert rao[["judge", "win_rate_vs_sft", "n_judged"]].tolist() == ["rule_score", 0.75, 1]
    assert rao[["reward_win_rate_vs_sft", "n_reward", "n"]].tolist() == [0.5, 2, 2]


def test_methods_whose_prompts_have_other_requirements_are_not_compared():
    other = RAO.assign(rule_score=RAO["rule_score"].where(RAO["prompt_id"] != "p1"))
    with pytest.raises(DataError, match="rao and sft have rule scores on different prompts, for example p1"):
        leaderboard({"sft": SFT, "rao": other}, HELD_OUT, seed=0)


def test_cut_responses_are_counted_and_the_gain_is_told_without_them():
    """SFT's first response to p0 was cut and scored 0: of p0 1.0 is left on both sides, and on p1 rao loses 0.25."""
    sft = generations([(0.0, 1.0), (0.5, 0.5)], cut={(0, 0)})
    table = LeaderboardTable.validate(leaderboard({"sft": sft, "rao": RAO}, HELD_OUT, seed=0)).set_index("method")
    assert table["cut"].to_dict() == {"rao": 0.0, "sft": 0.25}
    assert table.loc["rao", ["rule_score_gain", "gain_finished", "n_finished"]].tolist() == [0.125, -0.125, 2]
    assert table.loc["sft", ["gain_finished", "n_finished"]].tolist() == [0.0, 2]
    p0_cut = generations([(0.0, 1.0), (0.5, 0.5)], cut={(0, 0), (0, 1)})
    table = leaderboard({"sft": p0_cut, "rao": RAO}, HELD_OUT, seed=0).set_index("method")
    assert table.loc["rao", ["gain_finished", "n_finished"]].tolist() == [-0.25, 1]
    everything = generations([(0.0, 1.0), (0.5, 0.5)], cut={(0, 0), (0, 1), (1, 0), (1, 1)})
    table = LeaderboardTable.validate(leaderboard({"sft": everything, "rao": RAO}, HELD_OUT, seed=0)).set_index(
        "method"
    )
    assert table.loc["rao", "n_finished"] == 0 and table["gain_finished"].isna().all()


def test_runs_of_one_method_are_one_row_with_intervals_over_prompts_and_over_seeds():
    """The runs score 0.625 and 0.875, so 0.75; t of one degree of freedom is 12.706, the error 0.125."""
    again = generations([(1.0, 1.0), (0.5, 1.0)], n_tokens=4)
    runs = {"sft": SFT, "rao": RAO, "rao_seed_1": again}
    held = {"sft": held_out(-5, -5), "rao": held_out(-6, -4), "rao_seed_1": held_out(-6, -6)}
    logs = {name: pd.DataFrame({"responses_per_prompt": [n]}) for name, n in (("rao", 3.0), ("rao_seed_1", 4.0))}
    table = LeaderboardTable.validate(leaderboard(runs, held, 0, logs)).set_index("method")
    assert set(table.index) == {"sft", "rao"}
    rao = table.loc["rao"]
    expected = {"seeds": 2, "n": 2, "rule_score": 0.75, "rule_score_gain": 0.25, "mean_length": 3.5}
    expected |= {
        "chosen_likelihood_fell": 0.75,
        "responses_seen": 3.5,
        "win_rate_vs_sft": (0.75 + 0.25 + 0.75 + 0.75) / 4,
    }
    expected |= {"reward_gain_seeds_low": 0.5 - 12.7062 * 0.25, "reward_gain_seeds_high": 0.5 + 12.7062 * 0.25}
    assert rao[list(expected)].to_dict() == pytest.approx(expected, abs=1e-4)
    assert rao[["rule_score_seeds_low", "rule_score_seeds_high"]].tolist() == [0.0, 1.0]  # cut off at the bounds
    assert table.loc["sft", "seeds"] == 1 and np.isnan(table.loc["sft", "rule_score_seeds_low"])
    # Over prompts, the values are the runs' means 1.0 and 0.5, as for one run that has them.
    one = (
        leaderboard({"sft": SFT, "rao": generations([(1.0, 1.0), (0.5, 0.5)])}, held, 0).set_index("method").loc["rao"]
    )
    names = ["rule_score_low", "rule_score_high", "rule_score_gain_low", "rule_score_gain_high"]
    assert rao[names].to_dict() == one[names].to_dict()


def test_responses_without_a_reward_are_counted_and_leave_the_rewards_to_the_others():
    # Of rao's p0 one sample is left, with reward 2, and of p1 none: one prompt is compared, 2 against a mean of 1.
    rao = RAO.assign(reward=[2.0, np.nan, np.nan, np.nan], rule_score=np.nan)
    tables = {"sft": SFT.assign(rule_score=np.nan), "rao": rao}
    table = leaderboard(tables, {"sft": held_out(-5), "rao": held_out(-5)}, seed=0).set_index("method")
    LeaderboardTable.validate(table.reset_index())
    found = table.loc["rao", ["unscored", "reward", "reward_gain", "win_rate_vs_sft"]]
    assert list(found) == [3, 2.0, 1.0, 0.75] and table.loc["sft", "unscored"] == 0


def test_methods_that_answered_other_prompts_are_not_compared():
    other = RAO.assign(prompt_id="p9")
    with pytest.raises(DataError, match="rao and sft responded to different prompts"):
        leaderboard({"sft": SFT, "rao": other}, {"sft": held_out(-5), "rao": held_out(-5)}, seed=0)


def test_methods_that_did_not_see_the_same_responses_are_told():
    logs = {
        name: pd.DataFrame({"loss": [0.5, np.nan], "responses_per_prompt": [n, np.nan]}) for name, n in SEEN.items()
    }
    logs["ppo"] = pd.DataFrame({"loss": [0.5]})
    methods = ["sft", "rao", "dpo", "simpo", "ppo"]

    def board(*chosen):
        scored = {name: RAO if name != "sft" else SFT for name in chosen}
        table = leaderboard(scored, {name: held_out(-5, -5) for name in chosen}, 0, logs)
        return LeaderboardTable.validate(table)

    found = board(*methods).set_index("method")["responses_seen"]
    assert found.drop(["sft", "ppo"]).to_dict() == SEEN and found[["sft", "ppo"]].isna().all()
    said = unequal_responses(board(*methods))
    assert said is not None and "rao saw 3.8 a prompt, dpo saw 2 a prompt" in said and "ppo saw its own samples" in said
    assert unequal_responses(board("sft", "dpo", "simpo")) is None
    assert unequal_responses(board("sft", "base", "dpo")) is None  # the base model saw none
    assert "rao saw 3.8 a prompt, dpo saw 2 a prompt." in (unequal_responses(board("sft", "rao", "dpo")) or "")
    assert unequal_responses(leaderboard({"sft": SFT}, {"sft": held_out(-5, -5)}, seed=0)) is None
    logs["simpo"]["round"] = [1, 2]
    assert board(*methods).set_index("method")["rounds"]["simpo"] == 2
    logs["simpo_round_1"] = logs["simpo"].drop(columns="round")
    assert unequal_responses(board("sft", "simpo", "simpo_round_1")) is None  # rounds of one method
    said = unequal_responses(board("sft", "dpo", "simpo", "simpo_round_1"))
    assert said is not None and "dpo saw 2 a prompt, simpo saw 2 a prompt in each of 2 rounds." in said
