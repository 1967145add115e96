"""The report on benchmarks: one HTML file that opens anywhere, without a network. Model text is escaped."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader

from rao_kedro.reporting.report import embedded


def benchmark_report(
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    answers: Mapping[str, pd.DataFrame],
    samples: Mapping[str, pd.DataFrame],
    examples: int,
) -> str:
    """Return the page.

    Args:
        tables: By their headings.
        figures: By their headings.
        answers: Table of `BenchmarkAnswers` by method.
        samples: Table of `DownstreamSamples` by method.
        examples: Items of each benchmark that are shown with every method's answer.
    """
    template = Environment(loader=PackageLoader("rao_kedro.reporting"), autoescape=True).get_template("benchmarks.html")
    return template.render(
        tables={title: (list(table.columns), table.to_numpy().tolist()) for title, table in tables.items()},
        figures=embedded(figures),
        methods=list(answers),
        examples=_judged(answers, examples) + _downstream(samples, examples),
    )


def _judged(answers: Mapping[str, pd.DataFrame], n: int) -> list[dict[str, Any]]:
    by_item = {method: _by_key(table, "benchmark", "item_id", "turn") for method, table in answers.items()}
    first = next(iter(answers.values()))
    items = first[first["item_id"].isin(first.groupby("benchmark")["item_id"].head(n))]
    return [
        {
            "benchmark": row["benchmark"],
            "prompt": row["prompt"],
            "answers": [(rows.get(key, {}).get("answer", ""), "") for rows in by_item.values()],
        }
        for key, row in _by_key(items, "benchmark", "item_id", "turn").items()
    ]


def _downstream(samples: Mapping[str, pd.DataFrame], n: int) -> list[dict[str, Any]]:
    by_item = {method: _by_key(table, "task", "item_id") for method, table in samples.items()}
    first = next(iter(samples.values()))
    return [
        {
            "benchmark": row["task"],
            "prompt": row["prompt"],
            "answers": [_sample(rows.get(key)) for rows in by_item.values()],
        }
        for key, row in _by_key(first.groupby("task").head(n), "task", "item_id").items()
    ]


def _by_key(table: pd.DataFrame, *columns: str) -> dict[Any, dict[Any, Any]]:
    """Return the rows by what tells them apart."""
    return {tuple(row[name] for name in columns): row for row in table.to_dict("records")}


def _sample(row: Mapping[Any, Any] | None) -> tuple[str, str]:
    """Return what was written, and what was read off it."""
    if row is None:
        return "", ""
    read = "no answer found" if pd.isna(row["extracted"]) else f"read as {row['extracted']}"
    return str(row["output"]), f"{read}; right is {row['gold']}"
