"""Methods on benchmarks: metrics with intervals, differences from SFT and DPO paired by item, properties of the judge.

The unit of n and of every interval is the item. A method that was trained with several seeds has one run per seed. An
item's value is its mean over the runs; beside the interval over items stands the interval over seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rao_kedro.config.run_names import runs_by_method
from rao_kedro.evals.benchmark import Benchmark, Metric
from rao_kedro.evals.downstream.parameters import HARNESS
from rao_kedro.evals.registry import BENCHMARKS
from rao_kedro.evals.results import MetricKey, Results, cut_share, run_metrics
from rao_kedro.evals.tables import BenchmarkScoreTable, JudgeReportTable
from rao_kedro.statistics import (
    NAN,
    Interval,
    difference_bounds,
    difference_over_seeds,
    interval_over_seeds,
    mean_interval,
    mean_over_runs,
    percentile_interval,
)

AGAINST = ("sft", "dpo")
NOTHING = Interval(NAN, NAN, NAN, 0)


def benchmark_scores(results: Mapping[str, Results], benchmarks: Iterable[Benchmark], seed: int = 0) -> pd.DataFrame:
    """Return a row per method, benchmark and metric.

    Args:
        results: Results by run (`config.run_names`).
        benchmarks: The judged benchmarks with their parameters.
        seed: Seeds the resampling of intervals.

    Returns:
        Table of `BenchmarkScoreTable`.
    """
    benchmarks = list(benchmarks)
    metrics = {run: run_metrics(of_run, benchmarks) for run, of_run in results.items()}
    methods = runs_by_method(results)

    def of_method(method: str, key: MetricKey) -> list[Metric]:
        return [metrics[run][key] for run in methods.get(method, []) if key in metrics[run]]

    rows: list[dict[str, Any]] = []
    for method, runs in methods.items():
        cut = pd.concat([cut_share(results[run]) for run in runs]).groupby(level=0).mean()
        for key in dict.fromkeys(key for run in runs for key in metrics[run]):
            benchmark, metric = key
            ours = of_method(method, key)
            row = {"method": method, "benchmark": benchmark, "metric": metric, **_score(ours, seed)}
            row["cut"] = float(cut.get(benchmark.partition("::")[0], NAN))
            for baseline in AGAINST:
                differences = _differences(ours, of_method(baseline, key), method == baseline, seed)
                row |= _name_interval(f"vs_{baseline}", *differences)
            rows.append(row)
    return pd.DataFrame(rows, columns=_columns(BenchmarkScoreTable)) if rows else BenchmarkScoreTable.empty()


def _score(runs: Sequence[Metric], seed: int) -> dict[str, Any]:
    """Return the columns of a metric that depend on one method's runs only."""
    first, value = runs[0], float(np.mean([run.value for run in runs]))
    if first.known is None:
        found = mean_interval(_by_item(runs).tolist(), first.bounds, seed)
    elif len(runs) == 1:
        found = first.known
    else:
        low, high = percentile_interval(_mean_draws(runs)) if first.resamples is not None else (NAN, NAN)
        found = Interval(value, low, high, first.known.n)
    columns = _name_interval("value", found, interval_over_seeds([run.value for run in runs], first.bounds))
    return {
        **{name.removeprefix("value_"): number for name, number in columns.items()},
        "n": found.n,
        "seeds": len(runs),
        "unscored": sum(run.unscored for run in runs),
        "judge": first.judge,
        "chance": first.chance,
    }


def _differences(ours: Sequence[Metric], theirs: Sequence[Metric], same: bool, seed: int) -> tuple[Interval, Interval]:
    """Return the difference of two methods on a metric, paired by item: over items, and over seeds."""
    if not theirs:
        return NOTHING, NOTHING
    if same:
        return Interval(0.0, 0.0, 0.0, len(ours[0].values)), NOTHING
    bounds = difference_bounds(ours[0].bounds)
    if ours[0].known is None:
        base = _by_item(theirs)
        difference = (_by_item(ours) - base).dropna()
        found = mean_interval(difference.tolist(), bounds, seed)
        mine, others = ([(run.values - base)[difference.index].mean() for run in runs] for runs in (ours, theirs))
        return found, difference_over_seeds(mine, others, bounds)
    mine, others = ([run.value for run in runs] for runs in (ours, theirs))
    value = float(np.mean(mine) - np.mean(others))
    ends = (NAN, NAN)
    if ours[0].resamples is not None:
        ends = percentile_interval(_mean_draws(ours) - _mean_draws(theirs))
    return Interval(value, *ends, ours[0].known.n), difference_over_seeds(mine, others, bounds)


def _by_item(runs: Sequence[Metric]) -> pd.Series:
    return mean_over_runs([run.values for run in runs])


def _mean_draws(runs: Sequence[Metric]) -> np.ndarray:
    return np.mean([run.resamples for run in runs if run.resamples is not None], axis=0)


def _name_interval(name: str, found: Interval, over_seeds: Interval) -> dict[str, float]:
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_seeds_low": over_seeds.low,
        f"{name}_seeds_high": over_seeds.high,
    }


def preference_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the layout of the paper's Table 2: methods by the main metrics of the judged benchmarks."""
    return _by_method(scores, [(name, metric) for name, kind in BENCHMARKS.items() for metric in kind.main_metrics])


def downstream_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the layout of the paper's Table 3: methods by the accuracy on downstream tasks, and their average."""
    tasks = list(dict.fromkeys(scores.loc[scores["metric"] == "accuracy", "benchmark"]))
    columns = [(task, "accuracy") for task in tasks if "::" not in task]
    table = _by_method(scores, columns)
    if columns:
        values = scores.set_index(["benchmark", "metric"]).loc[columns]
        table["average"] = values.groupby("method")["value"].mean().map("{:.2f}".format).reindex(table.index)
    return table


def harness_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return methods by the metrics of tasks that belong to lm-evaluation-harness."""
    own = scores[scores["benchmark"].str.startswith(HARNESS) & ~scores["benchmark"].str.contains("::")]
    return _by_method(own, list(dict.fromkeys(zip(own["benchmark"], own["metric"], strict=True))))


def _by_method(scores: pd.DataFrame, columns: Sequence[MetricKey]) -> pd.DataFrame:
    """Return `value [low, high] (n, judge)` by method and metric, without the metrics that no method has."""
    is_chosen = [key in columns for key in zip(scores["benchmark"], scores["metric"], strict=True)]
    chosen = scores[np.array(is_chosen, dtype=bool)]  # an empty list would select columns
    text = []
    for row in chosen.to_dict("records"):
        seeds = f"{row['seeds']} seeds" if row["seeds"] > 1 else ""
        about = ", ".join(filter(None, (f"n = {row['n']}", seeds, row["judge"])))
        interval = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" if row["n"] else "nothing to read"
        text.append(f"{interval} ({about})")
    names = [f"{benchmark} {metric}" for benchmark, metric in columns]
    table = chosen.assign(text=text, name=chosen["benchmark"] + " " + chosen["metric"])
    wide = table.pivot(index="method", columns="name", values="text")
    methods = list(dict.fromkeys(chosen["method"]))
    return wide.reindex(index=methods, columns=[name for name in names if name in wide]).fillna("")


def judge_report(results: Mapping[str, Results], benchmarks: Iterable[Benchmark]) -> pd.DataFrame:
    """Return what is known of the judges: their bias for a position and for length, and their agreement.

    Args:
        results: Results by run (`config.run_names`); the runs of a method are taken together.
        benchmarks: The judged benchmarks with their parameters.

    Returns:
        Table of `JudgeReportTable`.
    """
    benchmarks = list(benchmarks)
    rows = [
        {"method": method, **row}
        for method, runs in runs_by_method(results).items()
        for benchmark in benchmarks
        for row in benchmark.judge_properties({run: results[run].judged for run in runs})
    ]
    return pd.DataFrame(rows, columns=_columns(JudgeReportTable)) if rows else JudgeReportTable.empty()


def _columns(schema: Any) -> list[str]:
    return list(schema.to_schema().columns)
