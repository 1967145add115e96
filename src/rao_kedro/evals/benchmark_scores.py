"""Methods on benchmarks: metrics with intervals, differences from SFT and DPO paired by item, the judges' biases."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rao_kedro.evals.alpaca_eval import length_controlled_win_rate
from rao_kedro.evals.judge_statistics import agreement, length_bias, position_bias
from rao_kedro.evals.mt_bench import score_table
from rao_kedro.evals.statistics import Interval, mean_interval
from rao_kedro.schemas.benchmarks import HARNESS
from rao_kedro.schemas.tables import BenchmarkScores, JudgeReport

AGAINST = ("sft", "dpo")
PREFERENCE = [
    ("alpaca_eval", "length_controlled_win_rate"),
    ("alpaca_eval", "win_rate"),
    ("mt_bench", "score"),
    ("mt_bench", "score_turn_1"),
    ("mt_bench", "score_turn_2"),
    ("mt_bench", "win_rate_vs_sft"),
]


class Results(NamedTuple):
    """What is known of one method, or of all; any table may be empty.

    Attributes:
        annotations: Table of `AlpacaEvalAnnotations`.
        judgments: Table of `MTBenchJudgments`.
        comparisons: Table of `MTBenchComparisons`.
        scores: Table of `DownstreamScores`.
        samples: Table of `DownstreamSamples`.
    """

    annotations: pd.DataFrame
    judgments: pd.DataFrame
    comparisons: pd.DataFrame
    scores: pd.DataFrame
    samples: pd.DataFrame

    def by_method(self) -> dict[str, "Results"]:
        """Return those of each method, in the order of their first rows."""
        tables = (self.annotations.assign(method=self.annotations["generator_2"]), *self[1:])
        methods = dict.fromkeys(method for table in tables for method in table["method"])
        return {m: Results(*(table[table["method"] == m].drop(columns="method") for table in tables)) for m in methods}

    @property
    def of_first_judge(self) -> pd.DataFrame:
        """The annotations that scores are made of."""
        return self.annotations[self.annotations["annotator"] == self.annotations["annotator"].iloc[:1].squeeze()]

    @property
    def of_second_judge(self) -> pd.DataFrame:
        """The other annotations."""
        return self.annotations.drop(self.of_first_judge.index)


class LengthControl(NamedTuple):
    """The inputs of the length-controlled win rate that are the same for all models; see `alpaca_eval`."""

    instruction_difficulty: pd.DataFrame
    gamed: pd.DataFrame


def benchmark_scores(
    results: Mapping[str, Results], length_control: LengthControl | None, seed: int = 0
) -> pd.DataFrame:
    """Return a row per method, benchmark and metric.

    Args:
        results: By method.
        length_control: None leaves the length-controlled win rate out; so does a part of the instructions.
        seed: Seeds the bootstrap.

    Returns:
        Table of `BenchmarkScores`.
    """
    rows: list[dict[str, Any]] = []
    for method, of_policy in results.items():
        found = [
            *_alpaca_eval(of_policy.of_first_judge, length_control, seed),
            *_mt_bench(of_policy.judgments, seed),
            *_mt_bench_against_sft(of_policy.comparisons, seed),
            *_downstream(of_policy.scores),
        ]
        differences = {
            baseline: _differences(of_policy, results[baseline], seed) for baseline in AGAINST if baseline in results
        }
        for row in found:
            paired: dict[str, float] = {}
            for baseline in AGAINST:
                interval = differences.get(baseline, {}).get((row["benchmark"], row["metric"]), (np.nan,) * 3)
                ends = ("", "_low", "_high")
                paired |= {f"vs_{baseline}{end}": x for end, x in zip(ends, interval, strict=False)}
            rows.append({"method": method, **row, **paired})
    return pd.DataFrame(rows, columns=_columns(BenchmarkScores)) if rows else BenchmarkScores.empty()


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
    chosen = scores[[key in columns for key in zip(scores["benchmark"], scores["metric"], strict=True)]]
    text = []
    for row in chosen.to_dict("records"):
        about = ", ".join(filter(None, (f"n = {row['n']}", row["judge"])))
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
        results: By method.
        seed: Seeds the bootstrap.

    Returns:
        Table of `JudgeReport`: of AlpacaEval's first judge, with position bias where pairs were judged in both orders
        and agreement where a second judge saw them; of MT-Bench's comparisons, which are made in both orders.
    """
    rows: list[dict[str, Any]] = []
    for method, of_method in results.items():
        if len(of_method.annotations):
            rows += [{"method": method, **row} for row in _of_alpaca_eval(of_method, seed)]
        if len(comparisons := of_method.comparisons):
            known = comparisons.dropna(subset="verdict")
            same = (known["verdict"] == known["winner"]).astype(float)
            interval = mean_interval(list(same), seed)._asdict()
            about = {"method": method, "judge": comparisons["judge"].iloc[0], "metric": "mt_bench_consistent"}
            rows.append({**about, "value": interval.pop("mean"), **interval})
    return pd.DataFrame(rows, columns=_columns(JudgeReport)) if rows else JudgeReport.empty()


def _of_alpaca_eval(of_method: Results, seed: int) -> list[dict[str, Any]]:
    table, others = of_method.of_first_judge, of_method.of_second_judge
    judge = table["annotator"].iloc[0]
    n = int(table["preference"].notna().sum())
    bias = pd.DataFrame(length_bias(table).items(), columns=["metric", "value"])
    found = [bias.assign(judge=judge, low=np.nan, high=np.nan, n=n)]
    if table["preference_swapped"].notna().any():
        swapped = table.assign(
            preference=table["preference_swapped"], is_switched_outputs=~table["is_switched_outputs"]
        )
        found.insert(0, position_bias(table, swapped, seed).assign(judge=judge))
    if len(others):
        agreed = agreement(table.set_index("index"), others.set_index("index"), seed)
        found.append(agreed.assign(judge=f"{judge} and {others['annotator'].iloc[0]}"))
    return [{str(name): value for name, value in row.items()} for row in pd.concat(found).to_dict("records")]


def _columns(schema: Any) -> list[str]:
    return list(schema.to_schema().columns)


def _row(benchmark: str, metric: str, found: Interval, **more: Any) -> dict[str, Any]:
    interval = {"value": found.mean, "low": found.low, "high": found.high, "n": found.n}
    return {"benchmark": benchmark, "metric": metric, **interval, "unscored": 0, "judge": "", "chance": np.nan, **more}


def _alpaca_eval(annotations: pd.DataFrame, control: LengthControl | None, seed: int) -> list[dict[str, Any]]:
    if annotations.empty:
        return []
    judge, unscored = str(annotations["annotator"].iloc[0]), int(annotations["preference"].isna().sum())
    wins = mean_interval(list(_percent_won(annotations).dropna()), seed)
    rows = [_row("alpaca_eval", "win_rate", wins, judge=judge, unscored=unscored)]
    if control is not None and len(annotations) == len(control.instruction_difficulty):
        found = length_controlled_win_rate(annotations.set_index("index"), *control)
        value, half = found["length_controlled_winrate"], 1.96 * found["lc_standard_error"]
        controlled = Interval(value, value - half, value + half, wins.n)
        rows.append(_row("alpaca_eval", "length_controlled_win_rate", controlled, judge=judge, unscored=unscored))
    lengths = mean_interval(list(annotations["output_2"].str.len()), seed)
    return [*rows, _row("alpaca_eval", "mean_length", lengths, judge=judge)]


def _percent_won(annotations: pd.DataFrame) -> pd.Series:
    return (annotations.set_index("index")["preference"] - 1) * 100


def _mt_bench(judgments: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    if judgments.empty:
        return []
    judge = str(judgments["judge"].iloc[0])
    rows = []
    for found in score_table(judgments, seed).to_dict("records"):
        category, turn = found["category"], found["turn"]
        if category == "all" or turn == 0:
            metric = "_".join(
                ["score", *([f"turn_{turn}"] if turn else []), *([] if category == "all" else [category])]
            )
            interval = Interval(*(found[name] for name in ("score", "low", "high", "n")))
            rows.append(_row("mt_bench", metric, interval, judge=judge, unscored=found["unparsed"]))
    return rows


def _mt_bench_against_sft(comparisons: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Return the share of questions that a method wins against SFT, in percent; a tie is half."""
    if comparisons.empty:
        return []
    known = comparisons.dropna(subset="verdict")
    won = known["verdict"].map({"a": 100.0, "tie": 50.0, "b": 0.0}).groupby(known["question_id"]).mean()
    unscored = len(comparisons) - len(known)
    interval = mean_interval(list(won), seed)
    judge = str(comparisons["judge"].iloc[0])
    return [_row("mt_bench", "win_rate_vs_sft", interval, judge=judge, unscored=unscored)]


def _downstream(scores: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for row in scores.to_dict("records"):
        percent = 100 if row["is_share"] else 1
        interval = Interval(percent * row["value"], percent * row["low"], percent * row["high"], row["n"])
        more = {"unscored": row["unparsed"], "chance": 100 * row["chance"]}
        rows.append(_row(row["task"], row["metric"], interval, **more))
    return rows


def _differences(ours: Results, theirs: Results, seed: int) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return the mean difference and its interval by benchmark and metric, over the items that both have values for."""
    mine, others = _item_values(ours), _item_values(theirs)
    result = {}
    for key in mine.keys() & others.keys():
        difference = (mine[key] - others[key]).dropna()
        if len(difference):
            interval = mean_interval(list(difference), seed)
            result[key] = (interval.mean, interval.low, interval.high)
    return result


def _item_values(results: Results) -> dict[tuple[str, str], pd.Series]:
    """Return what is averaged, by benchmark and metric, each by item."""
    shares = {(row["task"], row["metric"]) for row in results.scores.to_dict("records") if row["is_share"]}
    values = {
        (str(task), str(metric)): of_metric.set_index("item_id")["value"] * (100 if (task, metric) in shares else 1)
        for (task, metric), of_metric in results.samples.groupby(["task", "metric"])
    }
    if len(results.annotations):
        values["alpaca_eval", "win_rate"] = _percent_won(results.of_first_judge)
    if len(results.judgments):
        values["mt_bench", "score"] = results.judgments.groupby("question_id")["score"].mean()
    return values
