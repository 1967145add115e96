"""What fine-tuning made of a base model, from the files of a run with `evaluation.base_model: true`.

    python -m rao_kedro.reporting.base_model data/gemma3_270m

prints it as Markdown: held-out loss, share of responses that end by themselves, win rate by the rules, conversations.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.leaderboard import BASE, BASELINE
from rao_kedro.statistics import Interval, mean_interval

CONVERSATIONS = 3
SEED = 0  # of the resampling behind intervals, if the run's own is not given


def main(data_root: str) -> None:
    """Print the report of a run.

    Args:
        data_root: The run's `data_root`.
    """
    output, reporting = Path(data_root) / "07_model_output", Path(data_root) / "08_reporting"
    log, board = output / "sft_training_log.csv", reporting / "leaderboard.csv"
    scored = {policy: output / f"{policy}_scored_generations.parquet" for policy in (BASE, BASELINE)}
    if missing := [str(path) for path in (log, board, *scored.values()) if not path.exists()]:
        raise DataError(f"{missing[0]} is not there: run an environment with evaluation.base_model: true first")
    tables = {policy: pd.read_parquet(path) for policy, path in scored.items()}
    print(base_model_report(pd.read_csv(log), pd.read_csv(board), tables))


def base_model_report(log: pd.DataFrame, board: pd.DataFrame, scored: dict[str, pd.DataFrame]) -> str:
    """Return what fine-tuning changed, as Markdown.

    Args:
        log: Training log of the fine-tuning, with evaluations.
        board: Table of `LeaderboardTable`, with the rows of the base model and of SFT.
        scored: Tables of `ScoredGenerationTable` of both, by their names.
    """
    evaluations = log.dropna(subset="eval_loss").to_dict("records")
    first, best = evaluations[0], min(evaluations, key=lambda row: row["eval_loss"])
    rows = {row["method"]: row for row in board.to_dict("records")}
    base, sft = rows[BASE], rows[BASELINE]
    won, high, low = (1 - base[f"win_rate_vs_sft{end}"] for end in ("", "_low", "_high"))
    wins = Interval(won, low, high, base["n_judged"])
    ended = {policy: _ended(table) for policy, table in scored.items()}
    lines = [
        "| | base model | after fine-tuning |",
        "| --- | --- | --- |",
        f"| held-out loss, nats per token | {first['eval_loss']:.3f} | {best['eval_loss']:.3f} (step {best['step']}) |",
        f"| responses that end by themselves | {_percent(ended[BASE])} | {_percent(ended[BASELINE])} |",
        f"| rule score | {_score(base)} | {_score(sft)} |",
        "",
        f"By the rules, fine-tuning wins {_percent(wins)} of the comparisons with the base model (ties count half), "
        f"n = {wins.n} prompts.",
    ]
    return "\n".join([*lines, *_conversations(scored)])


def _ended(scored: pd.DataFrame) -> Interval:
    """Return the share of responses that were not cut at the token limit, over prompts."""
    by_prompt = (scored["finish_reason"] != "length").groupby(scored["prompt_id"]).mean()
    return mean_interval(by_prompt.tolist(), (0.0, 1.0), SEED)


def _percent(share: Interval) -> str:
    interval = "" if pd.isna(share.low) else f" [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    return f"{100 * share.mean:.1f} %{interval}"


def _score(row: Any) -> str:
    return f"{row['rule_score']:.3f} [{row['rule_score_low']:.3f}, {row['rule_score_high']:.3f}]"


def _conversations(scored: dict[str, pd.DataFrame]) -> list[str]:
    first = {policy: table[table["sample"] == 0].set_index("prompt_id") for policy, table in scored.items()}
    lines = []
    for prompt in first[BASE].index[:CONVERSATIONS]:
        lines += ["", f"**{first[BASE].loc[prompt, 'prompt']}**", "", "| | response |", "| --- | --- |"]
        for policy, table in first.items():
            text = json.dumps(str(table.loc[prompt, "response"]), ensure_ascii=False)[1:-1].replace("|", "\\|")
            lines.append(f"| {policy} | {text} |")
    return lines


if __name__ == "__main__":
    main(*sys.argv[1:])
