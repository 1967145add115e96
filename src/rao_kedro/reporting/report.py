"""The report on held-out prompts: one HTML file that opens without a network. Text of models is escaped."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader

from rao_kedro.config.run_names import method_of
from rao_kedro.evals.leaderboard import BASELINE, difference_from_baseline, unequal_responses
from rao_kedro.statistics import MIN_VERDICT_N, verdict


def html_report(
    leaderboard: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    generations: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    examples: int,
) -> str:
    """Return the page.

    Args:
        leaderboard: Table of `LeaderboardTable`.
        figures: Figures by their headings.
        generations: Table of `ScoredGenerationTable` by run (`config.run_names`); the first run of each method gives
            the side-by-side examples.
        tables: Further tables by their headings.
        examples: Number of prompts to show.
    """
    first_runs = {run: table for run, table in generations.items() if run == method_of(run)}
    template = Environment(loader=PackageLoader("rao_kedro.reporting"), autoescape=True).get_template("report.html")
    return template.render(
        baseline=BASELINE,
        headlines=headlines(leaderboard),
        rows=leaderboard.to_dict("records"),
        several_seeds=bool((leaderboard["seeds"] > 1).any()),
        unscored=bool(leaderboard["unscored"].any()),
        mixed=bool((leaderboard["n_rule_score"].between(1, leaderboard["n"] - 1)).any()),
        unequal=unequal_responses(leaderboard),
        figures=embed_figures(figures),
        methods=list(first_runs),
        examples=_examples(first_runs, examples),
        tables={title: (list(table.columns), table.to_numpy().tolist()) for title, table in tables.items()},
    )


def embed_figures(figures: Mapping[str, go.Figure]) -> dict[str, str]:
    """Return figures as HTML by their headings; the first one contains plotly's code for all."""
    return {
        title: figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displaylogo": False})
        for i, (title, figure) in enumerate(figures.items())
    }


def headlines(leaderboard: pd.DataFrame) -> list[tuple[str, str]]:
    """Return per method the sentence of `headline`, and its caveats: cut responses, and the spread over seeds.

    Args:
        leaderboard: Table of `LeaderboardTable`.
    """
    rows = leaderboard.to_dict("records")
    [baseline] = [row for row in rows if row["method"] == BASELINE]
    return [
        (headline(row), " ".join(filter(None, (_about_cut(row, baseline), _about_seeds(row)))))
        for row in rows
        if row["method"] != BASELINE
    ]


def headline(row: Mapping[Any, Any]) -> str:
    """Return a sentence that compares a method with SFT: the verdict, the gain and its paired interval.

    Args:
        row: A row of `LeaderboardTable`.
    """
    found, score = difference_from_baseline(row), row["judge"]
    prompts = f"{row['n_judged']} held-out prompts"
    if row["n_judged"] < row["n"]:
        having = "requirements" if score == "rule_score" else "rewards for both"
        prompts = f"the {row['n_judged']} of {row['n']} held-out prompts that have {having}"
    said = {
        "better": f"is better than {BASELINE} on",
        "worse": f"is worse than {BASELINE} on",
        "not distinguishable": f"is not distinguishable from {BASELINE} on",
        "withheld": f"gets no verdict against {BASELINE} on",
    }[verdict(found)]
    why = ""
    if found.n < MIN_VERDICT_N:
        why = f", fewer than the {MIN_VERDICT_N} that a verdict needs"
    elif pd.isna(found.low):
        why = ", on which all differences are the same"
    return (
        f"{row['method']} {said} {prompts}{why}: {score.replace('_', ' ')} {row[score]:.3f}, {found.mean:+.3f} against "
        f"{BASELINE}{_interval(found.low, found.high)}."
    )


def _about_cut(row: Mapping[Any, Any], baseline: Mapping[Any, Any]) -> str:
    """Return the shares of cut responses, and the gain without them; "" where none was cut."""
    if not row["cut"] and not baseline["cut"]:
        return ""
    ours, theirs = (f"{100 * cut:.1f} %" for cut in (row["cut"], baseline["cut"]))
    shares = f"{ours} of its responses were cut at the token limit, and {theirs} of {BASELINE}'s"
    if not row["n_finished"]:
        return f"{shares}: there is no prompt on which both finished one."
    interval = _interval(row["gain_finished_low"], row["gain_finished_high"])
    return (
        f"{shares}; between finished responses the gain is {row['gain_finished']:+.3f}{interval}, on the "
        f"{row['n_finished']} prompts on which both have some."
    )


def _about_seeds(row: Mapping[Any, Any]) -> str:
    """Return the gain with its interval over training seeds; "" for one seed."""
    gain = f"{row['judge']}_gain"
    if row["seeds"] == 1:
        return ""
    low, high = row[f"{gain}_seeds_low"], row[f"{gain}_seeds_high"]
    doubt = (
        " The interval over seeds holds 0: with another seed there may be no difference." if low <= 0 <= high else ""
    )
    return (
        f"Over {row['seeds']} training seeds the gain is {row[gain]:+.3f}{_interval(low, high, ' over seeds')}.{doubt}"
    )


def _interval(low: float, high: float, over: str = "") -> str:
    return " (no interval)" if pd.isna(low) else f" (95 % interval{over} {low:+.3f} to {high:+.3f})"


def _examples(generations: Mapping[str, pd.DataFrame], n: int) -> list[dict[str, Any]]:
    """Return the first `n` prompts with the first response of every method."""
    first = {method: table[table["sample"] == 0].set_index("prompt_id") for method, table in generations.items()}
    prompts = list(first[BASELINE].index[:n])
    return [
        {
            "prompt": first[BASELINE].loc[prompt, "prompt"],
            "responses": [
                table.loc[prompt, ["response", "rule_score", "reward", "finish_reason"]].to_dict()
                for table in first.values()
            ],
        }
        for prompt in prompts
    ]
