"""What one run of a method got on each metric of the benchmarks, by item where the metric is a mean over items."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from rao_kedro.evals.alpaca_eval.length_control import length_controlled_resamples
from rao_kedro.evals.alpaca_eval.win_rates import length_controlled_win_rate
from rao_kedro.evals.mt_bench.questions import SCORES, score_scopes, scores_by_question
from rao_kedro.statistics import MIN_VERDICT_N, NAN, Bounds, Interval

PERCENT = (0.0, 100.0)
Key = tuple[str, str]  # benchmark and metric


class Results(NamedTuple):
    """What is known of one run, or of all; any table may be empty.

    Attributes:
        annotations: Table of `AlpacaEvalAnnotationTable`.
        judgments: Table of `MTBenchJudgmentTable`.
        comparisons: Table of `MTBenchComparisonTable`.
        scores: Table of `DownstreamScoreTable`.
        samples: Table of `DownstreamSampleTable`.
        answers: Table of `BenchmarkAnswerTable`.
    """

    annotations: pd.DataFrame
    judgments: pd.DataFrame
    comparisons: pd.DataFrame
    scores: pd.DataFrame
    samples: pd.DataFrame
    answers: pd.DataFrame

    def by_run(self) -> dict[str, "Results"]:
        """Return those of each run, in the order of their first rows."""
        tables = (self.annotations.assign(method=self.annotations["generator_2"]), *self[1:])
        runs = dict.fromkeys(run for table in tables for run in table["method"])
        return {r: Results(*(table[table["method"] == r].drop(columns="method") for table in tables)) for r in runs}

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


class Metric(NamedTuple):
    """What one run got on a metric.

    Attributes:
        values: By item, NaN where an item has none.
        bounds: The lowest and the highest value of an item; None where there are none.
        known: The metric with its interval, where it is not the mean of `values`.
        resamples: The metric on draws of the items, which are the same for all runs; None where `values` tell all.
        unscored: Outputs and judgments that hold no answer.
        judge: Who judged.
        chance: What guessing gets.
    """

    values: pd.Series
    bounds: Bounds | None
    known: Interval | None = None
    resamples: np.ndarray | None = None
    unscored: int = 0
    judge: str = ""
    chance: float = NAN

    @property
    def value(self) -> float:
        """The value of this run."""
        return float(self.values.mean()) if self.known is None else self.known.mean


def metrics_of_run(results: Results, length_control: LengthControl | None, seed: int) -> dict[Key, Metric]:
    """Return what a run got on each metric.

    Args:
        results: Of one run.
        length_control: None leaves the length-controlled win rate out; so does a part of the instructions.
        seed: Seeds the draws of the instructions.
    """
    found = {
        "alpaca_eval": _alpaca_eval(results.of_first_judge, length_control, seed),
        "mt_bench": _mt_bench(results.judgments) | _mt_bench_against_sft(results.comparisons),
    }
    metrics = {(benchmark, name): metric for benchmark, part in found.items() for name, metric in part.items()}
    return metrics | _downstream(results.scores, results.samples)


def cut_share(results: Results) -> pd.Series:
    """Return the share of a run's responses that ended at their token limit, by benchmark."""
    answers, samples = results.answers, results.samples
    tables = [(answers, answers["benchmark"]), (samples, samples["task"].str.split("::").str[0])]
    # Tables that were written before responses said how they ended have no such column.
    reasons = [
        table["finish_reason"].set_axis(benchmark)[table["finish_reason"].isin(["stop", "length"]).to_numpy()]
        for table, benchmark in tables
        if "finish_reason" in table
    ]
    return pd.concat(reasons).eq("length").groupby(level=0).mean() if reasons else pd.Series(dtype=float)


def percent_won(annotations: pd.DataFrame) -> pd.Series:
    """Return AlpacaEval's preferences for the model by instruction, in percent."""
    return (annotations.set_index("index")["preference"] - 1) * 100


def _alpaca_eval(annotations: pd.DataFrame, control: LengthControl | None, seed: int) -> dict[str, Metric]:
    if annotations.empty:
        return {}
    judge, wins = str(annotations["annotator"].iloc[0]), percent_won(annotations)
    won = Metric(wins, PERCENT, unscored=int(wins.isna().sum()), judge=judge)
    metrics = {"win_rate": won}
    n = int(wins.notna().sum())
    # Few preferences cannot be regressed: draws of the instructions would hold none of them.
    if control is not None and len(annotations) == len(control.instruction_difficulty) and n >= MIN_VERDICT_N:
        indexed = annotations.set_index("index")
        found = length_controlled_win_rate(indexed, *control)
        resamples = length_controlled_resamples(indexed, *control, seed)
        controlled = Interval(found["length_controlled_winrate"], *interval_of_draws(resamples), n)
        metrics["length_controlled_win_rate"] = won._replace(known=controlled, resamples=resamples)
        of_package = Interval(found["lc_standard_error"], NAN, NAN, n)
        metrics["lc_standard_error"] = won._replace(bounds=None, known=of_package)
    indexed = annotations.set_index("index")
    lengths = indexed["output_2"].str.len().astype(float)
    lengths = lengths.where((lengths > 0) | (indexed["unscored_reason"] == ""))  # what a server refused has no length
    return metrics | {"mean_length": Metric(lengths, None, judge=judge)}


def interval_of_draws(resamples: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of a bootstrap."""
    low, high = np.quantile(resamples, [0.025, 0.975])
    return float(low), float(high)


def _mt_bench(judgments: pd.DataFrame) -> dict[str, Metric]:
    if judgments.empty:
        return {}
    judge, metrics = str(judgments["judge"].iloc[0]), {}
    for (category, turn), part in score_scopes(judgments).items():
        if category == "all" or turn == 0:
            name = "score" + (f"_turn_{turn}" if turn else "") + ("" if category == "all" else f"_{category}")
            unscored = int(part["score"].isna().sum())
            metrics[name] = Metric(scores_by_question(part), SCORES, unscored=unscored, judge=judge)
    return metrics


def _mt_bench_against_sft(comparisons: pd.DataFrame) -> dict[str, Metric]:
    """Return the share of questions that a method wins against SFT, in percent; a tie is half."""
    if comparisons.empty:
        return {}
    won = comparisons["verdict"].map({"a": 100.0, "tie": 50.0, "b": 0.0})
    by_question = won.groupby(comparisons["question_id"]).mean()
    judge = str(comparisons["judge"].iloc[0])
    return {"win_rate_vs_sft": Metric(by_question, PERCENT, unscored=int(won.isna().sum()), judge=judge)}


def _downstream(scores: pd.DataFrame, samples: pd.DataFrame) -> dict[Key, Metric]:
    """Return metrics of tasks, shares in percent; what is no mean over items keeps the interval it comes with."""
    whole = samples["task"].str.split("::").str[0]
    metrics = {}
    for row in scores.to_dict("records"):
        task, name, percent = str(row["task"]), str(row["metric"]), 100.0 if row["is_share"] else 1.0
        items = samples[((samples["task"] == task) | (whole == task)) & (samples["metric"] == name)]
        values, known = percent * items.set_index(["task", "item_id"])["value"], None
        if not np.isclose(values.mean(), percent * row["value"]) or values.isna().any():
            values = values[:0]
            known = Interval(percent * row["value"], percent * row["low"], percent * row["high"], row["n"])
        about = {"unscored": int(row["unparsed"]), "chance": 100 * row["chance"]}
        metrics[task, name] = Metric(values, PERCENT if row["is_share"] else None, known, **about)
    return metrics
