"""Nodes of the benchmarks: judging, comparing, drawing."""

from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.evals.benchmark_files import read_csv
from rao_kedro.evals.benchmark_scores import (
    LengthControl,
    PolicyResults,
    benchmark_scores,
    downstream_table,
    judge_report,
    preference_table,
)
from rao_kedro.evals.judging import judge_answers
from rao_kedro.pipelines.evaluation.nodes import by_policy
from rao_kedro.reporting.benchmark_figures import accuracy_bars, mt_bench_radar, win_rate_against_length
from rao_kedro.reporting.benchmark_report import benchmark_report
from rao_kedro.schemas.parameters import EvaluationParameters


def judge_policy(
    answers: pd.DataFrame, evaluation: EvaluationParameters, workspace: Path
) -> tuple[list[dict[str, Any]], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Let the judge look at what a policy answered, after which the workspace is named.

    Returns:
        AlpacaEval's outputs in its own format, and tables of `AlpacaEvalAnnotations`, `MTBenchJudgments` and
        `JudgeUsage`.
    """
    policy = workspace.name
    found = judge_answers(policy, answers, evaluation.benchmarks, workspace / "judge")
    outputs = answers[answers["benchmark"] == "alpaca_eval"].rename(
        columns={"prompt": "instruction", "answer": "output"}
    )
    rows = outputs.assign(generator=policy)[["instruction", "output", "generator"]].to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows], *found


def compare_on_benchmarks(
    evaluation: EvaluationParameters, **tables: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare policies on the chosen benchmarks.

    Returns:
        Tables of `BenchmarkScores` and `JudgeReport`.
    """
    kinds = ("alpaca_eval_annotations_", "mt_bench_judgments_", "downstream_scores_", "downstream_samples_")
    found = [by_policy(tables, kind) for kind in kinds]
    results = {policy: PolicyResults(*(tables_of[policy] for tables_of in found)) for policy in found[0]}
    seed = evaluation.benchmarks.seed
    return benchmark_scores(results, _length_control(evaluation), seed), judge_report(results, seed)


def _length_control(evaluation: EvaluationParameters) -> LengthControl | None:
    """Return the inputs of the length-controlled win rate, where all instructions are answered and they are there."""
    how, limit = evaluation.benchmarks.alpaca_eval, evaluation.benchmarks.limit
    if "alpaca_eval" not in evaluation.benchmarks.names.split() or limit is not None:
        return None
    if how.instruction_difficulty is None or how.gamed is None:
        return None
    return LengthControl(read_csv(how.instruction_difficulty), read_csv(how.gamed))


def plot_benchmarks(scores: pd.DataFrame) -> tuple[go.Figure, go.Figure, go.Figure]:
    """Return win rate against length, MT-Bench by category, and accuracies."""
    return win_rate_against_length(scores), mt_bench_radar(scores), accuracy_bars(scores)


def write_benchmark_report(
    evaluation: EvaluationParameters,
    scores: pd.DataFrame,
    judged: pd.DataFrame,
    win_rates: go.Figure,
    categories: go.Figure,
    accuracies: go.Figure,
    **tables: pd.DataFrame | None,
) -> str:
    """Return the HTML report on the chosen benchmarks."""
    figures = {"AlpacaEval 2": win_rates, "MT-Bench": categories, "Accuracies": accuracies}
    usage = by_policy(tables, "judge_usage_")
    layouts = {
        "Preference benchmarks": preference_table(scores).reset_index(),
        "Downstream tasks": downstream_table(scores).reset_index(),
        "All metrics": scores,
        "The judge": judged,
        "What the judge took": pd.concat([table.assign(method=policy) for policy, table in usage.items()]),
    }
    return benchmark_report(
        {title: table for title, table in layouts.items() if len(table)},
        {title: figure for title, figure in figures.items() if len(figure.data)},
        by_policy(tables, "benchmark_answers_"),
        by_policy(tables, "downstream_samples_"),
        evaluation.examples,
    )
