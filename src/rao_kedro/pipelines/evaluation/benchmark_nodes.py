"""Nodes of the benchmarks: their files, answers of served models, judging, comparing, drawing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.config.run_names import method_of
from rao_kedro.config.servers import JudgeParameters, ServerParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.errors import ParameterError
from rao_kedro.evals.downstream.figures import accuracy_bars
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.files import collect_files, with_collected_files
from rao_kedro.evals.judging import judge_answers
from rao_kedro.evals.leaderboard import BASE, BASELINE
from rao_kedro.evals.parameters import AnsweredBenchmarks, BenchmarkParameters
from rao_kedro.evals.registry import BENCHMARKS
from rao_kedro.evals.results import Results
from rao_kedro.evals.scores import (
    benchmark_scores,
    downstream_table,
    harness_table,
    judge_report,
    preference_table,
)
from rao_kedro.evals.specs import ServedResponsesSpec
from rao_kedro.evals.tables import BenchmarkResponseTable
from rao_kedro.pipelines.runs import METHODS
from rao_kedro.reporting.benchmark_report import benchmark_report
from rao_kedro.workers import launch

JUDGE_USAGE = "judge_usage"


def collect_benchmark_files(workers: WorkerParameters, **benchmarks: Any) -> Path:
    """Read the files of the chosen benchmarks once for all models.

    Rows of tasks that belong to lm-evaluation-harness stay in its cache; loading them shows that they are available.

    Args:
        workers: How workers are started; the files are collected in the workspace `benchmark_files`.
        **benchmarks: Fields of `AnsweredBenchmarks`.

    Returns:
        The directory of the files, with a manifest: the location of each, its revision, hash and number of rows.
    """
    chosen = AnsweredBenchmarks(**benchmarks)
    if chosen.harness.tasks:
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
    """Let served models respond to the chosen benchmarks.

    Args:
        served_models: Models behind servers, by their names in tables.
        benchmark_files: Directory that `collect_benchmark_files` returned.
        workers: How workers are started.
        **benchmarks: Fields of `AnsweredBenchmarks`.

    Returns:
        Tables of `BenchmarkResponseTable`, `DownstreamScoreTable` and `DownstreamSampleTable`.

    Raises:
        ParameterError: A served model has the name of a method.
    """
    if taken := sorted(name for name in served_models if method_of(name) in {BASELINE, BASE, *METHODS}):
        raise ParameterError(f"served_models: {', '.join(taken)} is the name of a method; choose another one")
    written: list[list[pd.DataFrame]] = [
        [schema.empty() for schema in (BenchmarkResponseTable, DownstreamScoreTable, DownstreamSampleTable)]
    ]
    asked = AnsweredBenchmarks(**benchmarks)
    for name, server in served_models.items():
        about = {"benchmarks": asked, "files": benchmark_files, "workspace": workers.workspace(f"served_models/{name}")}
        spec = ServedResponsesSpec(method=name, server=server, **about)
        launch(spec, workers)
        written.append([pd.read_parquet(path) for path in spec.paths])
    answers, scores, samples = map(_concatenate, zip(*written, strict=True))
    return answers, scores, samples


def judge_methods(
    judge: JudgeParameters | None,
    second_judge: JudgeParameters | None,
    benchmark_files: Path,
    workers: WorkerParameters,
    **inputs: Any,
) -> dict[str, Any]:
    """Let the judges read the answers of all methods.

    Args:
        judge: The judge.
        second_judge: The second judge.
        benchmark_files: Directory that `collect_benchmark_files` returned.
        workers: How workers are started; judgments are kept in the workspace `judge`.
        **inputs: Tables `benchmark_answers_<method>`, and the parameters of each judged benchmark.

    Returns:
        The datasets of `judged_datasets`, by name.
    """
    with workers.reserve("judge") as workspace:
        answers = _join(inputs, "benchmark_answers")
        parameters = BenchmarkParameters(judge=judge, second_judge=second_judge, **_blocks(inputs))
        found = judge_answers(answers, with_collected_files(parameters, benchmark_files), workspace)
    exports = {
        dataset: export(answers[answers["benchmark"] == name])
        for name, benchmark in BENCHMARKS.items()
        for dataset, export in benchmark.exports.items()
    }
    return {**exports, **found.tables, JUDGE_USAGE: found.usage}


def judgment_datasets() -> list[str]:
    """Return the datasets with the judgments of all registered benchmarks."""
    return [dataset for benchmark in BENCHMARKS.values() for dataset in benchmark.tables]


def judged_datasets() -> list[str]:
    """Return the datasets that `judge_methods` makes."""
    exports = [dataset for benchmark in BENCHMARKS.values() for dataset in benchmark.exports]
    return [*exports, *judgment_datasets(), JUDGE_USAGE]


def figure_datasets() -> dict[str, str]:
    """Return the datasets of figures by their headings in the report."""
    return {benchmark.title: benchmark.figure_dataset for benchmark in BENCHMARKS.values()} | {
        "Accuracies": "downstream_accuracies"
    }


def compare_on_benchmarks(
    limit: int | None, seed: int, benchmark_files: Path, **inputs: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the methods on the chosen benchmarks.

    Args:
        limit: Number of items of each benchmark; None for all.
        seed: Seeds the resampling of intervals.
        benchmark_files: Directory that `collect_benchmark_files` returned.
        **inputs: Tables `benchmark_answers_<method>`, `downstream_scores_<method>` and `downstream_samples_<method>`;
            the datasets of `judgment_datasets`; the parameters of each judged benchmark.

    Returns:
        Tables of `BenchmarkScoreTable` and `JudgeReportTable`.
    """
    judged = {dataset: inputs[dataset] for dataset in judgment_datasets()}
    written = (_join(inputs, kind) for kind in ("downstream_scores", "downstream_samples", "benchmark_answers"))
    results = Results(judged, *written).by_run()
    parameters = AnsweredBenchmarks(limit=limit, seed=seed, **_blocks(inputs))
    benchmarks = [*with_collected_files(parameters, benchmark_files).registered().values()]
    return benchmark_scores(results, benchmarks, seed), judge_report(results, benchmarks)


def plot_benchmarks(scores: pd.DataFrame) -> dict[str, go.Figure]:
    """Return the figures, by dataset."""
    figures = {benchmark.figure_dataset: benchmark().figure(scores) for benchmark in BENCHMARKS.values()}
    return figures | {"downstream_accuracies": accuracy_bars(scores)}


def write_benchmark_report(
    examples: int, benchmark_scores: pd.DataFrame, judge_report: pd.DataFrame, judge_usage: pd.DataFrame, **inputs: Any
) -> str:
    """Return the HTML report on the chosen benchmarks.

    Args:
        examples: Items of each benchmark that are shown with every method's answer.
        benchmark_scores: Table of `BenchmarkScoreTable`.
        judge_report: Table of `JudgeReportTable`.
        judge_usage: Table of `JudgeUsageTable`.
        **inputs: Tables `benchmark_answers_<method>` and `downstream_samples_<method>`; the datasets of
            `judgment_datasets` and of `figure_datasets`.
    """
    layouts = {
        "Preference benchmarks": preference_table(benchmark_scores).reset_index(),
        "Downstream tasks": downstream_table(benchmark_scores).reset_index(),
        "Tasks of lm-evaluation-harness": harness_table(benchmark_scores).reset_index(),
        "All metrics": benchmark_scores,
        "The judge": judge_report,
        "What the judge took": judge_usage,
    }
    figures = {title: inputs[dataset] for title, dataset in figure_datasets().items()}
    judged = {dataset: inputs[dataset] for dataset in judgment_datasets()}
    verdicts = {name: benchmark().verdicts(judged) for name, benchmark in BENCHMARKS.items()}
    return benchmark_report(
        benchmark_scores,
        {title: table for title, table in layouts.items() if len(table)},
        {title: figure for title, figure in figures.items() if len(figure.data)},
        _join(inputs, "benchmark_answers"),
        _join(inputs, "downstream_samples"),
        verdicts,
        examples,
    )


def _blocks(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the judged benchmarks."""
    return {name: inputs[name] for name in BENCHMARKS}


def _join(inputs: Mapping[str, Any], kind: str) -> pd.DataFrame:
    """Return the rows of all tables `<kind>_<method>`."""
    return _concatenate([table for name, table in inputs.items() if name.startswith(f"{kind}_")])


def _concatenate(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all tables; empty tables do not change the types of columns."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
