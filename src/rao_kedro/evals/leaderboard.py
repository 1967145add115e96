"""The leaderboard: each method on held-out prompts, compared with SFT on the same prompts.

The unit of n and of every interval is the prompt: several responses to a prompt are averaged first, and so are the runs
of a method that was trained with several seeds. Beside the interval over prompts stands the interval over seeds.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rao_kedro.config.run_names import runs_by_method, split_round
from rao_kedro.errors import DataError
from rao_kedro.evals.tables import LeaderboardTable
from rao_kedro.statistics import (
    Bounds,
    Interval,
    difference_bounds,
    difference_over_seeds,
    interval_over_seeds,
    mean_interval,
    mean_over_runs,
)

BASELINE = "sft"
BASE = "base"  # the base model, before fine-tuning
RULES, REWARD = "rule_score", "reward"
SCORES: dict[str, Bounds | None] = {RULES: (0.0, 1.0), REWARD: None}
SHARE = (0.0, 1.0)
# SFT compared with itself.
OF_ITSELF = {"rule_score_gain": 0.0, "reward_gain": 0.0, "gain_finished": 0.0}
OF_ITSELF |= {"win_rate_vs_sft": 0.5, "reward_win_rate_vs_sft": 0.5}
Row = dict[str, float | str]


def leaderboard(
    generations: Mapping[str, pd.DataFrame],
    held_out: Mapping[str, pd.DataFrame],
    seed: int,
    logs: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Return one row per method, best first.

    Where any prompt has requirements, the rules decide who wins, on the prompts that have them; else the reward does.

    Args:
        generations: Table of `ScoredGenerationTable` by run (`config.run_names`); "sft" must be among them.
        held_out: Table of `HeldOutLogProbTable` by run.
        seed: Seeds the resampling of intervals.
        logs: Training logs by run; they hold how many responses per prompt each run was trained on.

    Returns:
        Table of `LeaderboardTable`; gains and win rates are paired by prompt.

    Raises:
        DataError: A run responded to other prompts than SFT, or has rule scores on other prompts.
    """
    methods = runs_by_method(generations)
    baseline = [generations[run] for run in methods[BASELINE]]
    rows: list[Row] = []
    for method, runs in methods.items():
        for run in runs:
            _require_same_prompts(run, generations[run], baseline[0])
        row = _scores([generations[run] for run in runs], baseline, seed)
        if method == BASELINE:
            for name, value in OF_ITSELF.items():
                if not np.isnan(row[name]):
                    row |= {name: value, f"{name}_low": value, f"{name}_high": value}
        fallen = float(np.mean([_share_fallen(held_out[run]) for run in runs]))
        of_runs = [(logs or {}).get(run) for run in runs]
        seen = float(pd.Series([_responses_seen(log) for log in of_runs]).mean())
        trained = {"rounds": split_round(method)[1] or max(map(_rounds, of_runs)), "responses_seen": seen}
        rows.append({"method": method, **row, "chosen_likelihood_fell": fallen, **trained})
    best_first = ["rule_score", "win_rate_vs_sft"]
    board = pd.DataFrame(rows, columns=list(LeaderboardTable.to_schema().columns))
    return board.sort_values(best_first, ascending=False, na_position="last", ignore_index=True)


def _require_same_prompts(run: str, scored: pd.DataFrame, baseline: pd.DataFrame) -> None:
    ours, theirs = (set(table["prompt_id"]) for table in (scored, baseline))
    if ours != theirs:
        raise DataError(f"{run} and {BASELINE} responded to different prompts: run the pipeline `evaluation` again")
    ours, theirs = (set(table.dropna(subset=RULES)["prompt_id"]) for table in (scored, baseline))
    if ours != theirs:
        raise DataError(
            f"{run} and {BASELINE} have rule scores on different prompts, for example {min(ours ^ theirs)}: the "
            "requirements have changed between their evaluations; run the pipeline `evaluation` again"
        )


def _scores(runs: Sequence[pd.DataFrame], baseline: Sequence[pd.DataFrame], seed: int) -> Row:
    """Return the columns that depend on the responses of a method's runs and of the baseline's runs."""
    responses, of_baseline = pd.concat(runs), pd.concat(baseline)
    judge = RULES if of_baseline[RULES].notna().any() else REWARD
    row: Row = {"seeds": len(runs), "n": responses["prompt_id"].nunique(), "judge": judge}
    for score, bounds in SCORES.items():
        values = [_by_prompt(run, score) for run in runs]
        row |= _columns(score, values, bounds, seed) | {f"n_{score}": len(mean_over_runs(values))}
        gains, spread = _gains(runs, baseline, score)
        row |= _columns(f"{score}_gain", gains, difference_bounds(bounds), seed, spread)
        wins = [_win_rates(run, of_baseline, score) for run in runs]
        if score == REWARD:
            row |= _columns("reward_win_rate_vs_sft", wins, SHARE, seed)
        if score == judge:
            row |= _columns("win_rate_vs_sft", wins, SHARE, seed) | {"n_judged": len(mean_over_runs(wins))}
            gains, spread = _gains([*map(_finished, runs)], [*map(_finished, baseline)], score)
            row |= _columns("gain_finished", gains, difference_bounds(bounds), seed, spread)
            row["n_finished"] = len(mean_over_runs(gains))
    return row | {
        "cut": float((responses["finish_reason"] == "length").mean()),
        "mean_length": float(responses.groupby("prompt_id")["n_tokens"].mean().mean()),
        "kl_to_reference": float((responses["logp"] - responses["reference_logp"]).mean()),
        "unscored": int(responses["reward"].isna().sum()),
    }


def _columns(
    name: str, runs: Sequence[pd.Series], bounds: Bounds | None, seed: int, baseline: Sequence[pd.Series] | None = None
) -> Row:
    """Return the columns of a mean over prompts: its value, its interval over prompts, and its interval over seeds.

    Args:
        name: Name of the mean.
        runs: Values by prompt, per run.
        bounds: Lowest and highest possible value.
        seed: Seeds the resampling.
        baseline: Values of the baseline's runs, where the mean is a difference from the baseline.
    """
    over_prompts = mean_interval(mean_over_runs(runs).tolist(), bounds, seed)
    means = [run.mean() for run in runs]
    over_seeds = interval_over_seeds(means, bounds)
    if baseline is not None:
        over_seeds = difference_over_seeds(means, [run.mean() for run in baseline], bounds)
    return {
        name: over_prompts.mean,
        f"{name}_low": over_prompts.low,
        f"{name}_high": over_prompts.high,
        f"{name}_seeds_low": over_seeds.low,
        f"{name}_seeds_high": over_seeds.high,
    }


def _gains(
    runs: Sequence[pd.DataFrame], baseline: Sequence[pd.DataFrame], score: str
) -> tuple[list[pd.Series], list[pd.Series]]:
    """Return by prompt the difference from the mean of the baseline's runs, for each run and each baseline run."""
    base = mean_over_runs([_by_prompt(run, score) for run in baseline])
    ours, theirs = ([(_by_prompt(run, score) - base).dropna() for run in tables] for tables in (runs, baseline))
    return ours, theirs


def _by_prompt(scored: pd.DataFrame, score: str) -> pd.Series:
    """Return the mean score of each prompt's responses that have one."""
    return scored.groupby("prompt_id")[score].mean().dropna()


def _finished(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the responses that were not cut at the token limit."""
    return scored[scored["finish_reason"] != "length"]


def _win_rates(scored: pd.DataFrame, baseline: pd.DataFrame, judge: str) -> pd.Series:
    """Return per prompt the share of pairs of responses that the method wins; a tie counts half.

    Prompts where either side has no score are left out.
    """
    ours, theirs = (table.dropna(subset=judge).groupby("prompt_id")[judge].agg(list) for table in (scored, baseline))
    return pd.Series(
        {
            prompt: float(np.mean([(a > b) + 0.5 * (a == b) for a in ours[prompt] for b in theirs[prompt]]))
            for prompt in ours.index.intersection(theirs.index)
        },
        dtype=float,
    )


def _share_fallen(held_out: pd.DataFrame) -> float:
    """Return the share of groups whose chosen response is less likely than under the reference model."""
    pairs = zip(held_out["logps"], held_out["reference_logps"], strict=True)
    return float(np.mean([logps[0] < reference[0] for logps, reference in pairs]))


def _responses_seen(log: pd.DataFrame | None) -> float:
    """Return the mean number of responses per prompt that a method was trained on; NaN where its log lacks it."""
    column = "responses_per_prompt"
    seen = list(log[column].dropna()) if log is not None and column in log else []
    return float(seen[-1]) if seen else float("nan")


def _rounds(log: pd.DataFrame | None) -> int:
    """Return the number of on-policy rounds in a training log."""
    return int(log["round"].max()) if log is not None and "round" in log else 0


def difference_from_baseline(row: Mapping[Hashable, Any]) -> Interval:
    """Return the gain over SFT of a row of `LeaderboardTable`, with its interval over prompts."""
    gain = f"{row['judge']}_gain"
    return Interval(row[gain], row[f"{gain}_low"], row[f"{gain}_high"], row["n_judged"])


def unequal_responses(board: pd.DataFrame) -> str | None:
    """Return a warning if the methods were not trained on equally many responses per prompt, else None.

    Args:
        board: Table of `LeaderboardTable`; earlier rounds of a method are left out.
    """
    is_round = board["method"].map(lambda name: split_round(name)[1] is not None)
    methods = board[~board["method"].isin([BASELINE, BASE]) & ~is_round]
    seen = methods.set_index("method")["responses_seen"]
    known = seen.dropna()
    equal = len(known) == len(seen) and np.ptp(known) < 0.05 and methods["rounds"].nunique() == 1
    if known.empty or equal:
        return None
    of_rounds = [f" in {'each of ' * (n > 1)}{n} round{'s' * (n > 1)}" if n else "" for n in methods["rounds"]]
    counts = [
        f"{name} saw {'its own samples' if np.isnan(n) else f'{n:.3g} a prompt'}{rounds}"
        for (name, n), rounds in zip(seen.items(), of_rounds, strict=True)
    ]
    return (
        f"The methods were not trained on the same responses: {', '.join(counts)}. As many rounds and the same "
        "responses_per_prompt for all of them, or pairs: all for the pairwise ones, make the comparison equal."
    )
