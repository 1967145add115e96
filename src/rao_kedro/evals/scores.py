"""Methods on benchmarks: metrics with intervals, differences from SFT and DPO paired by item, the judges' biases.

The unit of n and of every interval is the item. A method that was trained with several seeds has a run for each: an
item's value is its mean over the runs, and beside the interval over items stands the one over seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rao_kedro.config.benchmarks import HARNESS
from rao_kedro.config.runs import runs_by_method
from rao_kedro.evals.metrics import (
    Key,
    LengthControl,
    Metric,
    Results,
    cut_share,
    interval_of_draws,
    metrics_of_run,
)
from rao_kedro.evals.tables import BenchmarkScoreTable, JudgeReportTable
from rao_kedro.judges.bias import agreement, length_bias, position_bias, share_interval
from rao_kedro.statistics import (
    NAN,
    Interval,
    difference_over_seeds,
    interval_over_seeds,
    mean_interval,
    mean_over_runs,
    of_difference,
)

AGAINST = ("sft", "dpo")
PREFERENCE = [
    ("alpaca_eval", "length_controlled_win_rate"),
    ("alpaca_eval", "win_rate"),
    ("mt_bench", "score"),
    ("mt_bench", "score_turn_1"),
    ("mt_bench", "score_turn_2"),
    ("mt_bench", "win_rate_vs_sft"),
]
NOTHING = Interval(NAN, NAN, NAN, 0)


def benchmark_scores(
    results: Mapping[str, Results], length_control: LengthControl | None, seed: int = 0
) -> pd.DataFrame:
    """Return a row per method, benchmark and metric.

    Args:
        results: By run (`config.runs`).
        length_control: None leaves the length-controlled win rate out; so does a part of the instructions.
        seed: Seeds the resampling of the intervals.

    Returns:
        Table of `BenchmarkScoreTable`.
    """
    metrics = {run: metrics_of_run(of_run, length_control, seed) for run, of_run in results.items()}
    methods = runs_by_method(results)

    def of_method(method: str, key: Key) -> list[Metric]:
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
                row |= _columns_of(f"vs_{baseline}", *differences)
            rows.append(row)
    return pd.DataFrame(rows, columns=_columns(BenchmarkScoreTable)) if rows else BenchmarkScoreTable.empty()


def _score(runs: Sequence[Metric], seed: int) -> dict[str, Any]:
    """Return what is said of a metric of one method's runs."""
    first, value = runs[0], float(np.mean([run.value for run in runs]))
    if first.known is None:
        found = mean_interval(_by_item(runs).tolist(), first.bounds, seed)
    elif len(runs) == 1:
        found = first.known
    else:
        low, high = interval_of_draws(_draws(runs)) if first.resamples is not None else (NAN, NAN)
        found = Interval(value, low, high, first.known.n)
    columns = _columns_of("value", found, interval_over_seeds([run.value for run in runs], first.bounds))
    return {
        **{name.removeprefix("value_"): number for name, number in columns.items()},
        "n": found.n,
        "seeds": len(runs),
        "unscored": sum(run.unscored for run in runs),
        "judge": first.judge,
        "chance": first.chance,
    }


def _differences(ours: Sequence[Metric], theirs: Sequence[Metric], same: bool, seed: int) -> tuple[Interval, Interval]:
    """Return the difference of two methods on a metric, paired by item, with intervals over items and over seeds."""
    if not theirs:
        return NOTHING, NOTHING
    if same:
        return Interval(0.0, 0.0, 0.0, len(ours[0].values)), NOTHING
    bounds = of_difference(ours[0].bounds)
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
        ends = interval_of_draws(_draws(ours) - _draws(theirs))
    return Interval(value, *ends, ours[0].known.n), difference_over_seeds(mine, others, bounds)


def _by_item(runs: Sequence[Metric]) -> pd.Series:
    return mean_over_runs([run.values for run in runs])


def _draws(runs: Sequence[Metric]) -> np.ndarray:
    return np.mean([run.resamples for run in runs if run.resamples is not None], axis=0)


def _columns_of(name: str, found: Interval, over_seeds: Interval) -> dict[str, float]:
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        f"{name}_seeds_low": over_seeds.low,
        f"{name}_seeds_high": over_seeds.high,
    }


def preference_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the layout of the paper's Table 2: methods by the metrics of AlpacaEval 2 and MT-Bench."""
    return _by_method(scores, PREFERENCE)


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
    """Return methods by the metrics of tasks of lm-evaluation-harness itself."""
    own = scores[scores["benchmark"].str.startswith(HARNESS) & ~scores["benchmark"].str.contains("::")]
    return _by_method(own, list(dict.fromkeys(zip(own["benchmark"], own["metric"], strict=True))))


def _by_method(scores: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return `value [low, high] (n, judge)` by method and metric; metrics that nobody has are left out."""
    is_chosen = [key in columns for key in zip(scores["benchmark"], scores["metric"], strict=True)]
    chosen = scores[np.array(is_chosen, dtype=bool)]  # an empty list would be one of columns
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


def judge_report(results: Mapping[str, Results], seed: int = 0) -> pd.DataFrame:
    """Return how judges care about position and length, and how far they agree, per method.

    Args:
        results: By run (`config.runs`); those of one method are taken together.
        seed: Seeds the resampling of the intervals.

    Returns:
        Table of `JudgeReportTable`: of AlpacaEval's first judge, with position bias where pairs were judged in both
        orders and agreement where a second judge saw them; of MT-Bench's comparisons, which are made in both orders.
    """
    rows: list[dict[str, Any]] = []
    for method, runs in runs_by_method(results).items():
        of_runs = {run: results[run] for run in runs}
        annotated = {run: of_run for run, of_run in of_runs.items() if len(of_run.annotations)}
        if annotated:
            rows += [{"method": method, **row} for row in _of_alpaca_eval(annotated, seed)]
        compared = {run: of_run.comparisons.set_index(["question_id", "turn"]) for run, of_run in of_runs.items()}
        if len(comparisons := pd.concat(compared)):
            known = comparisons.dropna(subset="verdict")
            same = (known["verdict"] == known["winner"]).droplevel("turn")
            about = {"method": method, "judge": comparisons["judge"].iloc[0], "metric": "mt_bench_consistent"}
            found = share_interval(same, seed)
            rows.append({**about, "value": found.mean, "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(rows, columns=_columns(JudgeReportTable)) if rows else JudgeReportTable.empty()


def _of_alpaca_eval(runs: Mapping[str, Results], seed: int) -> list[dict[str, Any]]:
    table = pd.concat({run: of_run.of_first_judge.set_index("index") for run, of_run in runs.items()})
    others = pd.concat({run: of_run.of_second_judge.set_index("index") for run, of_run in runs.items()})
    judge = table["annotator"].iloc[0]
    found = [length_bias(table, seed).assign(judge=judge)]
    if table["preference_swapped"].notna().any():
        swapped = table.assign(
            preference=table["preference_swapped"], is_switched_outputs=~table["is_switched_outputs"]
        )
        found.insert(0, position_bias(table, swapped, seed).assign(judge=judge))
    if len(others):
        both = table.index.intersection(others.index)
        agreed = agreement(table.loc[both], others.loc[both], seed)
        found.append(agreed.assign(judge=f"{judge} and {others['annotator'].iloc[0]}"))
    return [{str(name): value for name, value in row.items()} for row in pd.concat(found).to_dict("records")]


def _columns(schema: Any) -> list[str]:
    return list(schema.to_schema().columns)
