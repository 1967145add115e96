"""The report on benchmarks: one HTML file that opens without a network. Text of models is escaped."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader

from rao_kedro.config.run_names import method_of
from rao_kedro.evals.benchmark import ItemTurn
from rao_kedro.reporting.report import embed_figures

Row = Mapping[Hashable, Any]


class Example(NamedTuple):
    """An item of a benchmark with every method's answer to it.

    Attributes:
        prompt: What was asked.
        answers: The answer of each method, and how it was judged.
    """

    prompt: str
    answers: list[tuple[str, str]]


def benchmark_report(
    scores: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    answers: pd.DataFrame,
    samples: pd.DataFrame,
    verdicts: Mapping[str, Mapping[ItemTurn, str]],
    examples: int,
) -> str:
    """Return the page.

    Args:
        scores: Table of `BenchmarkScoreTable`.
        tables: Tables by their headings.
        figures: Figures by their headings.
        answers: Table of `BenchmarkAnswerTable`.
        samples: Table of `DownstreamSampleTable`.
        verdicts: How each answer was judged, by benchmark (`Benchmark.verdicts`).
        examples: Items of each benchmark that are shown with the answers of every method's first run.
    """
    template = Environment(loader=PackageLoader("rao_kedro.reporting"), autoescape=True).get_template("benchmarks.html")

    def judged(row: Row) -> tuple[str, str]:
        key = row["method"], row["item_id"], row["turn"]
        return row["answer"], verdicts[row["benchmark"]].get(key, "not judged")

    methods = [run for run in dict.fromkeys([*answers["method"], *samples["method"]]) if run == method_of(run)]
    samples = samples.drop_duplicates(["method", "task", "item_id"])  # of several metrics, the first one
    shown = {
        str(name): _examples(table, ["item_id", "turn"], methods, judged, examples)
        for name, table in answers.groupby("benchmark", sort=False)
    } | {
        str(name): _examples(table, ["task", "item_id"], methods, _read_sample, examples)
        for name, table in samples.groupby(samples["task"].str.split("::").str[0], sort=False)
    }
    return template.render(
        tables={title: (list(table.columns), table.to_numpy().tolist()) for title, table in tables.items()},
        cut=cut_sentences(scores),
        figures=embed_figures(figures),
        methods=methods,
        examples=shown,
    )


def cut_sentences(scores: pd.DataFrame) -> list[str]:
    """Return a sentence per benchmark on the share of responses that were cut at the token limit.

    Args:
        scores: Table of `BenchmarkScoreTable`.
    """
    whole = scores["benchmark"].str.split("::").str[0]
    sentences = []
    for benchmark, rows in scores[scores["cut"].notna()].groupby(whole, sort=False):
        if rows["cut"].max() > 0:
            shares = rows.drop_duplicates("method").set_index("method")["cut"].items()
            said = ", ".join(f"{100 * share:.1f} % of {method}'s" for method, share in shares)
            sentences.append(f"{benchmark}: cut at the token limit were {said} responses.")
    return sentences


def _examples(
    table: pd.DataFrame, key: list[str], methods: list[str], show: Callable[[Row], tuple[str, str]], n: int
) -> list[Example]:
    """Return the first `n` items, every turn of them, with each method's answer."""
    items = table["item_id"].drop_duplicates().head(n)
    return [
        Example(
            str(rows["prompt"].iloc[0]),
            [show(of_method[method]) if method in of_method else ("", "") for method in methods],
        )
        for _, rows in table[table["item_id"].isin(items)].groupby(key, sort=False)
        for of_method in [{row["method"]: row for row in rows.to_dict("records")}]
    ]


def _read_sample(row: Row) -> tuple[str, str]:
    """Return the output of a downstream task, and the answer that was read in it."""
    read: str = "no answer found" if pd.isna(row["extracted"]) else f"read as {row['extracted']}"
    return str(row["output"]), f"{read}; right is {row['gold']}"
