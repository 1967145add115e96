"""The report on benchmarks: one HTML file that opens anywhere, without a network. Model text is escaped."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader

from rao_kedro.config.runs import method_of
from rao_kedro.reporting.report import embedded

Row = Mapping[Hashable, Any]


class Example(NamedTuple):
    """An item of a benchmark with every method's answer to it.

    Attributes:
        prompt: What was asked.
        answers: What each method answered, and what is said of that.
    """

    prompt: str
    answers: list[tuple[str, str]]


def benchmark_report(
    scores: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    answers: pd.DataFrame,
    samples: pd.DataFrame,
    annotations: pd.DataFrame,
    judgments: pd.DataFrame,
    examples: int,
) -> str:
    """Return the page.

    Args:
        scores: Table of `BenchmarkScoreTable`.
        tables: By their headings.
        figures: By their headings.
        answers: Table of `BenchmarkAnswerTable`.
        samples: Table of `DownstreamSampleTable`.
        annotations: Table of `AlpacaEvalAnnotationTable`.
        judgments: Table of `MTBenchJudgmentTable`.
        examples: Items of each benchmark that are shown with every method's answer, of its first run.
    """
    template = Environment(loader=PackageLoader("rao_kedro.reporting"), autoescape=True).get_template("benchmarks.html")
    judged = answers.assign(
        verdict=[*map(_verdicts(annotations, judgments), answers.to_dict("records"))] if len(answers) else ""
    )
    methods = [run for run in dict.fromkeys([*answers["method"], *samples["method"]]) if run == method_of(run)]
    samples = samples.drop_duplicates(["method", "task", "item_id"])  # of several metrics, the first
    shown = {
        str(name): _examples(table, ["item_id", "turn"], methods, lambda row: (row["answer"], row["verdict"]), examples)
        for name, table in judged.groupby("benchmark", sort=False)
    } | {
        str(name): _examples(table, ["task", "item_id"], methods, _sample, examples)
        for name, table in samples.groupby(samples["task"].str.split("::").str[0], sort=False)
    }
    return template.render(
        tables={title: (list(table.columns), table.to_numpy().tolist()) for title, table in tables.items()},
        cut=cut_sentences(scores),
        figures=embedded(figures),
        methods=methods,
        examples=shown,
    )


def cut_sentences(scores: pd.DataFrame) -> list[str]:
    """Return a sentence per benchmark on which responses were cut at the token limit.

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
    table: pd.DataFrame, key: list[str], methods: list[str], shown: Callable[[Row], tuple[str, str]], n: int
) -> list[Example]:
    """Return the first `n` items, every turn of them, with each method's answer."""
    items = table["item_id"].drop_duplicates().head(n)
    return [
        Example(
            str(rows["prompt"].iloc[0]),
            [shown(of_method[method]) if method in of_method else ("", "") for method in methods],
        )
        for _, rows in table[table["item_id"].isin(items)].groupby(key, sort=False)
        for of_method in [{row["method"]: row for row in rows.to_dict("records")}]
    ]


def _verdicts(annotations: pd.DataFrame, judgments: pd.DataFrame) -> Callable[[Row], str]:
    """Return what says how an answer was judged."""
    preferred = {
        (row["generator_2"], row["instruction"]): f"preferred over {row['generator_1']} with probability "
        f"{row['preference'] - 1:.2f}, says {row['annotator']}"
        if not row["unscored_reason"]
        else f"not judged: {row['unscored_reason']}"
        for row in annotations[::-1].to_dict("records")  # the first judge's stays
    }
    scored = {
        (row["method"], str(row["question_id"]), row["turn"]): f"{row['score']:g} of 10, says {row['judge']}"
        if not row["unscored_reason"]
        else f"not judged: {row['unscored_reason']}"
        for row in judgments.to_dict("records")
    }

    def verdict(answer: Row) -> str:
        if answer["benchmark"] == "alpaca_eval":
            return preferred.get((answer["method"], answer["prompt"]), "not judged")
        return scored.get((answer["method"], answer["item_id"], answer["turn"]), "not judged")

    return verdict


def _sample(row: Row) -> tuple[str, str]:
    """Return what was written, and what was read off it."""
    read: str = "no answer found" if pd.isna(row["extracted"]) else f"read as {row['extracted']}"
    return str(row["output"]), f"{read}; right is {row['gold']}"
