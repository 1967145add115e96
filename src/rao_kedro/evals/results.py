"""What is known of models on benchmarks: the tables of all runs, split by run, and a run's metrics."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from rao_kedro.evals.benchmark import Benchmark, Metric
from rao_kedro.evals.downstream.metrics import downstream_metrics
from rao_kedro.evals.registry import BENCHMARKS

MetricKey = tuple[str, str]  # benchmark and metric


class Results(NamedTuple):
    """Results of one run, or of all runs; any table may be empty.

    Attributes:
        judged: What judging yielded, by dataset (`Benchmark.tables`).
        scores: Table of `DownstreamScoreTable`.
        samples: Table of `DownstreamSampleTable`.
        answers: Table of `BenchmarkResponseTable`.
    """

    judged: Mapping[str, pd.DataFrame]
    scores: pd.DataFrame
    samples: pd.DataFrame
    answers: pd.DataFrame

    def by_run(self) -> dict[str, "Results"]:
        """Return the results of each run, in the order of their first rows."""
        columns = {dataset: kind.run_column for kind in BENCHMARKS.values() for dataset in kind.tables}
        runs_of = {dataset: table[columns[dataset]] for dataset, table in self.judged.items()}
        tables = (self.scores, self.samples, self.answers)
        names = (*runs_of.values(), *(table["method"] for table in tables))
        return {
            run: Results(
                {dataset: table[runs_of[dataset] == run] for dataset, table in self.judged.items()},
                *(table[table["method"] == run] for table in tables),
            )
            for run in dict.fromkeys(name for of_table in names for name in of_table)
        }


def run_metrics(results: Results, benchmarks: Iterable[Benchmark]) -> dict[MetricKey, Metric]:
    """Return the metrics of one run.

    Args:
        results: The results of the run.
        benchmarks: The judged benchmarks with their parameters.
    """
    judged = {
        (benchmark.name, name): metric
        for benchmark in benchmarks
        for name, metric in benchmark.metrics(results.judged).items()
    }
    return judged | downstream_metrics(results.scores, results.samples)


def cut_share(results: Results) -> pd.Series:
    """Return the share of a run's responses that were cut at their token limit, by benchmark."""
    reasons = [
        table["finish_reason"].set_axis(benchmark)[table["finish_reason"].notna().to_numpy()]
        for table, benchmark in (
            (results.answers, results.answers["benchmark"]),
            (results.samples, results.samples["task"].str.split("::").str[0]),
        )
    ]
    return pd.concat(reasons).eq("length").groupby(level=0).mean()
