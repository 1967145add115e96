"""The leaderboard: how each method does on prompts that no training saw, compared with SFT on the same prompts.

The unit of n and of every interval is the prompt: several responses to one prompt are averaged first.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.statistics import mean_interval

BASELINE = "sft"


def leaderboard(
    generations: Mapping[str, pd.DataFrame],
    held_out: Mapping[str, pd.DataFrame],
    seed: int,
    logs: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Return one row per method, best first.

    Args:
        generations: Table of `ScoredGenerations` by method; "sft" must be among them.
        held_out: Table of `HeldOutLogps` by method.
        seed: Seeds the bootstrap.
        logs: Training logs by method; they say how many responses to a prompt each was trained on.

    Returns:
        Table of `Leaderboard`; `rule_score_gain`, `reward_gain` and `win_rate_vs_sft` are paired by prompt.

    Raises:
        DataError: A method answered other prompts than SFT did.
    """
    rows = [_row(method, generations[method], generations[BASELINE], held_out[method], seed) for method in generations]
    for row in rows:
        row["responses_seen"] = _responses_seen((logs or {}).get(str(row["method"])))
    best_first = ["rule_score", "win_rate_vs_sft"]
    return pd.DataFrame(rows).sort_values(best_first, ascending=False, na_position="last", ignore_index=True)


def _responses_seen(log: pd.DataFrame | None) -> float:
    """Return the mean responses to a prompt that a method was trained on; NaN where its log does not say."""
    column = "responses_per_prompt"
    seen = list(log[column].dropna()) if log is not None and column in log else []
    return float(seen[-1]) if seen else float("nan")


def unequal_responses(board: pd.DataFrame) -> str | None:
    """Return a sentence if the methods of a leaderboard were not trained on equally many responses of the data.

    Args:
        board: Table of `Leaderboard`.
    """
    methods = board[board["method"] != BASELINE]
    seen = methods.set_index("method")["responses_seen"]
    known = seen.dropna()
    if known.empty or (len(known) == len(seen) and np.ptp(known) < 0.05):
        return None
    counts = [f"{name} saw {'its own samples' if np.isnan(n) else f'{n:.3g} a prompt'}" for name, n in seen.items()]
    return (
        f"The methods were not trained on the same responses: {', '.join(counts)}. The same responses_per_prompt for "
        "all of them, or pairs: all for the pairwise ones, makes the comparison equal."
    )


def _row(
    method: str, scored: pd.DataFrame, baseline: pd.DataFrame, held_out: pd.DataFrame, seed: int
) -> dict[str, float | str]:
    means, base = _prompt_means(scored), _prompt_means(baseline)
    if set(means.index) != set(base.index):
        raise DataError(f"{method} and {BASELINE} answered different prompts: run the pipeline `evaluation` again")
    base = base.loc[means.index]
    row: dict[str, float | str] = {"method": method, "n": len(means)}
    for name, values in {
        "rule_score": means["rule_score"],
        "rule_score_gain": means["rule_score"] - base["rule_score"],
        "reward": means["reward"].dropna(),
        "reward_gain": (means["reward"] - base["reward"]).dropna(),
        "win_rate_vs_sft": _win_rates(scored, baseline),
    }.items():
        interval = mean_interval(list(values), seed)
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    pairs = zip(held_out["logps"], held_out["reference_logps"], strict=True)
    fell = [logps[0] < reference[0] for logps, reference in pairs]
    return row | {
        "mean_length": float(means["n_tokens"].mean()),
        "kl_to_reference": float((scored["logp"] - scored["reference_logp"]).mean()),
        "chosen_likelihood_fell": float(np.mean(fell)),
        "unscored": int(scored["reward"].isna().sum()),
    }


def _prompt_means(scored: pd.DataFrame) -> pd.DataFrame:
    return scored.groupby("prompt_id")[["rule_score", "reward", "n_tokens"]].mean()


def _win_rates(scored: pd.DataFrame, baseline: pd.DataFrame) -> pd.Series:
    """Return per prompt the share of pairs of responses that the method wins; a tie is half.

    Judged by the rules where prompts have requirements, else by the reward; a prompt without one has no pairs.
    """
    judge = "reward" if scored["rule_score"].isna().any() else "rule_score"
    ours, theirs = (table.dropna(subset=judge).groupby("prompt_id")[judge].agg(list) for table in (scored, baseline))
    return pd.Series(
        {
            prompt: float(np.mean([(a > b) + 0.5 * (a == b) for a in ours[prompt] for b in theirs[prompt]]))
            for prompt in ours.index.intersection(theirs.index)
        }
    )
