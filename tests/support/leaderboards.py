"""Rows of leaderboards for tests of reports and model cards."""

import numpy as np

from rao_kedro.evals.tables import LeaderboardTable


def row(method, score, gain, low, high, n=100, **others):
    columns = {name: np.nan for name in LeaderboardTable.to_schema().columns}
    values = dict.fromkeys(["reward", "reward_low", "reward_high"], 1.0) | {"reward_gain": 0.5, "reward_gain_low": 0.1}
    wins = dict.fromkeys(["win_rate_vs_sft", "win_rate_vs_sft_low", "win_rate_vs_sft_high"], 0.5)
    return columns | {
        "method": method,
        "seeds": 1,
        "judge": "rule_score",
        "n": n,
        "n_rule_score": n,
        "n_reward": n,
        "n_judged": n,
        "n_finished": n,
        "rule_score": score,
        "rule_score_low": score - 0.05,
        "rule_score_high": score + 0.05,
        "rule_score_gain": gain,
        "rule_score_gain_low": low,
        "rule_score_gain_high": high,
        **values,
        "reward_gain_high": 0.9,
        **wins,
        "cut": 0.0,
        "gain_finished": gain,
        "mean_length": 20.0,
        "kl_to_reference": 1.0,
        "chosen_likelihood_fell": 0.2,
        "unscored": 0,
        "rounds": 0,
        "responses_seen": {"rao": 4.0, "dpo": 2.0}.get(method, np.nan),
        **others,
    }
