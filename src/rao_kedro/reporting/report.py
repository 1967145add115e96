"""The report: one HTML file that opens anywhere, without a network. Model text is escaped."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader

from rao_kedro.evals.leaderboard import BASELINE, unequal_responses


def html_report(
    leaderboard: pd.DataFrame,
    figures: Mapping[str, go.Figure],
    generations: Mapping[str, pd.DataFrame],
    tables: Mapping[str, pd.DataFrame],
    examples: int,
) -> str:
    """Return the page.

    Args:
        leaderboard: Table of `Leaderboard`.
        figures: Figures by their headings.
        generations: Table of `ScoredGenerations` by method, for side-by-side examples.
        tables: Further tables by their headings.
        examples: Prompts to show.
    """
    template = Environment(loader=PackageLoader("rao_kedro.reporting"), autoescape=True).get_template("report.html")
    return template.render(
        headlines=[headline(row) for row in leaderboard.to_dict("records") if row["method"] != BASELINE],
        rows=leaderboard.to_dict("records"),
        unequal=unequal_responses(leaderboard),
        figures=embedded(figures),
        methods=list(generations),
        examples=_examples(generations, examples),
        tables={title: (list(table.columns), table.to_numpy().tolist()) for title, table in tables.items()},
    )


def embedded(figures: Mapping[str, go.Figure]) -> dict[str, str]:
    """Return figures as HTML by their headings; the first one brings plotly along for all."""
    return {
        title: figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displaylogo": False})
        for i, (title, figure) in enumerate(figures.items())
    }


def headline(row: Mapping[Any, Any]) -> str:
    """Return one sentence on how a method compares with SFT, with the paired interval, and whether it is conclusive."""
    score = "reward" if pd.isna(row["rule_score"]) else "rule_score"
    gain, low, high = (row[f"{score}_gain{end}"] for end in ("", "_low", "_high"))
    verdict = "better than" if low > 0 else "worse than" if high < 0 else "not distinguishable from"
    return (
        f"{row['method']} is {verdict} {BASELINE} on {row['n']} held-out prompts: {score.replace('_', ' ')} "
        f"{row[score]:.3f}, {gain:+.3f} against {BASELINE} (95 % interval {low:+.3f} to {high:+.3f})."
    )


def _examples(generations: Mapping[str, pd.DataFrame], n: int) -> list[dict[str, Any]]:
    """Return the first prompts with the first response of every method."""
    first = {method: table[table["sample"] == 0].set_index("prompt_id") for method, table in generations.items()}
    prompts = list(first[BASELINE].index[:n])
    return [
        {
            "prompt": first[BASELINE].loc[prompt, "prompt"],
            "responses": [
                table.loc[prompt, ["response", "rule_score", "reward"]].to_dict() for table in first.values()
            ],
        }
        for prompt in prompts
    ]
