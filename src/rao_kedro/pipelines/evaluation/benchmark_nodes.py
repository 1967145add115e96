"""Nodes of the benchmarks: their files, answers of served models, judging, comparing, drawing."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.config.benchmarks import (
    AlpacaEvalParameters,
    AnsweredBenchmarks,
    BenchmarkParameters,
    JudgeParameters,
    MTBenchParameters,
    ServedAnswersSpec,
    ServerParameters,
)
from rao_kedro.config.runs import method_of
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.errors import ParameterError
from rao_kedro.evals.alpaca_eval.win_rates import model_outputs
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.files import collect_files, read_csv, with_collected_files
from rao_kedro.evals.judging import judge_answers
from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.evals.metrics import LengthControl, Results
from rao_kedro.evals.scores import (
    benchmark_scores,
    downstream_table,
    harness_table,
    judge_report,
    preference_table,
)
from rao_kedro.evals.tables import BenchmarkAnswerTable
from rao_kedro.pipelines.evaluation.nodes import by_policy
from rao_kedro.pipelines.methods import METHODS
from rao_kedro.reporting.benchmark_figures import accuracy_bars, mt_bench_radar, win_rate_against_length
from rao_kedro.reporting.benchmark_report import benchmark_report
from rao_kedro.workers import launch


def collect_benchmark_files(workers: WorkerParameters, **benchmarks: Any) -> Path:
    """Read the files of the chosen benchmarks, which are fields of `AnsweredBenchmarks`, once for all models.

    The rows of lm-evaluation-harness's own tasks are left in its cache: that they can be had is seen here.

    Returns:
        The directory of the files, with a manifest: where each came from, its revision, hash and number of rows.
    """
    chosen = AnsweredBenchmarks(**benchmarks)
    if chosen.harness.tasks.split():
        from rao_kedro.evals.downstream.named_tasks import load_tasks

        load_tasks(chosen.harness)
    with workers.reserve("benchmark_files") as workspace:
        collect_files(chosen, workspace / "files")
    return workspace / "files"


def answer_with_served_models(
    served_models: Mapping[str, ServerParameters],
    benchmark_files: Path,
    workers: WorkerParameters,
    **benchmarks: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Let served models answer the chosen benchmarks, which are fields of `AnsweredBenchmarks`.

    Returns:
        Tables of `BenchmarkAnswerTable`, `DownstreamScoreTable` and `DownstreamSampleTable`.

    Raises:
        ParameterError: One is called as a method is.
    """
    if taken := sorted(name for name in served_models if method_of(name) in {BASELINE, *METHODS}):
        raise ParameterError(f"served_models: {', '.join(taken)} is the name of a method; choose another one")
    written: list[list[pd.DataFrame]] = [
        [schema.empty() for schema in (BenchmarkAnswerTable, DownstreamScoreTable, DownstreamSampleTable)]
    ]
    asked = AnsweredBenchmarks(**benchmarks)
    for name, server in served_models.items():
        about = {"benchmarks": asked, "files": benchmark_files, "workspace": workers.workspace(f"served_models/{name}")}
        spec = ServedAnswersSpec(method=name, server=server, **about)
        launch(spec, workers)
        written.append([pd.read_parquet(path) for path in spec.paths])
    answers, scores, samples = map(_joined, zip(*written, strict=True))
    return answers, scores, samples


def judge_methods(
    alpaca_eval: AlpacaEvalParameters,
    mt_bench: MTBenchParameters,
    judge: JudgeParameters | None,
    second_judge: JudgeParameters | None,
    benchmark_files: Path,
    workers: WorkerParameters,
    **tables: pd.DataFrame,
) -> tuple[dict[str, list[dict[Hashable, Any]]], pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Let the judge look at what all methods answered.

    Returns:
        AlpacaEval's outputs in its own format by method, and tables of `AlpacaEvalAnnotationTable`,
        `MTBenchJudgmentTable`, `MTBenchComparisonTable` and `JudgeUsageTable`.
    """
    how = BenchmarkParameters(alpaca_eval=alpaca_eval, mt_bench=mt_bench, judge=judge, second_judge=second_judge)
    with workers.reserve("judge") as workspace:
        answers = _joined([*by_policy(tables, "benchmark_answers_").values()])
        judged = judge_answers(answers, with_collected_files(how, benchmark_files), workspace)
    return model_outputs(answers), *judged


def compare_on_benchmarks(
    names: str,
    limit: int | None,
    alpaca_eval: AlpacaEvalParameters,
    seed: int,
    benchmark_files: Path,
    annotations: pd.DataFrame,
    judgments: pd.DataFrame,
    comparisons: pd.DataFrame,
    **tables: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare methods on the chosen benchmarks.

    Returns:
        Tables of `BenchmarkScoreTable` and `JudgeReportTable`.
    """
    written = ("downstream_scores_", "downstream_samples_", "benchmark_answers_")
    tables_of_all = (_joined([*by_policy(tables, kind).values()]) for kind in written)
    results = Results(annotations, judgments, comparisons, *tables_of_all).by_run()
    how = with_collected_files(AnsweredBenchmarks(alpaca_eval=alpaca_eval), benchmark_files).alpaca_eval
    length_control = _length_control(how) if "alpaca_eval" in names.split() and limit is None else None
    return benchmark_scores(results, length_control, seed), judge_report(results, seed)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all tables; empty ones leave the others' types alone."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _length_control(how: AlpacaEvalParameters) -> LengthControl | None:
    """Return the inputs of the length-controlled win rate, where they are there."""
    if how.instruction_difficulty is None or how.gamed is None:
        return None
    return LengthControl(read_csv(how.instruction_difficulty), read_csv(how.gamed))


def plot_benchmarks(scores: pd.DataFrame) -> tuple[go.Figure, go.Figure, go.Figure]:
    """Return win rate against length, MT-Bench by category, and accuracies."""
    return win_rate_against_length(scores), mt_bench_radar(scores), accuracy_bars(scores)


def write_benchmark_report(
    examples: int,
    scores: pd.DataFrame,
    judged: pd.DataFrame,
    usage: pd.DataFrame,
    annotations: pd.DataFrame,
    judgments: pd.DataFrame,
    win_rates: go.Figure,
    categories: go.Figure,
    accuracies: go.Figure,
    **tables: pd.DataFrame,
) -> str:
    """Return the HTML report on the chosen benchmarks."""
    figures = {"AlpacaEval 2": win_rates, "MT-Bench": categories, "Accuracies": accuracies}
    layouts = {
        "Preference benchmarks": preference_table(scores).reset_index(),
        "Downstream tasks": downstream_table(scores).reset_index(),
        "Tasks of lm-evaluation-harness": harness_table(scores).reset_index(),
        "All metrics": scores,
        "The judge": judged,
        "What the judge took": usage,
    }
    answers, samples = (
        _joined([*by_policy(tables, kind).values()]) for kind in ("benchmark_answers_", "downstream_samples_")
    )
    return benchmark_report(
        scores,
        {title: table for title, table in layouts.items() if len(table)},
        {title: figure for title, figure in figures.items() if len(figure.data)},
        answers,
        samples,
        annotations,
        judgments,
        examples,
    )
