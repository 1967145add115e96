"""AlpacaEval 2 as a benchmark: its files, its judging in AlpacaEval's order and swapped, its metrics, its figure."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from pydantic import Field

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.errors import DataError
from rao_kedro.evals.alpaca_eval.judge import compare_with_baseline, pair_with_baseline
from rao_kedro.evals.alpaca_eval.length_control import length_controlled_resamples
from rao_kedro.evals.alpaca_eval.tables import AlpacaEvalAnnotationTable
from rao_kedro.evals.alpaca_eval.win_rates import length_controlled_win_rate, model_outputs
from rao_kedro.evals.benchmark import (
    PERCENT,
    Benchmark,
    BenchmarkBlock,
    Exchange,
    ItemTurn,
    Judging,
    Metric,
    Write,
    describe_sample,
)
from rao_kedro.evals.locations import read_csv, read_json_rows
from rao_kedro.judges.bias import agreement, length_bias, position_bias
from rao_kedro.plotting import apply_style, assign_colors, error_bars
from rao_kedro.statistics import MIN_VERDICT_N, NAN, Interval, percentile_interval

# A commit, so that these files stay what they are.
PUBLISHED = "hf://datasets/tatsu-lab/alpaca_eval@2edc6fad8be6b14ea7230aabfd08188da6b8b814"
ANNOTATIONS = "alpaca_eval_annotations"
BASELINE_COLUMNS = {"instruction", "output", "generator"}


class AlpacaEvalParameters(BenchmarkBlock):
    """AlpacaEval 2.

    Attributes:
        baseline: Location of the baseline's outputs, a JSON list of `instruction, output, generator`; models answer its
            instructions.
        instruction_difficulty: Location of a CSV with columns `index, instruction_difficulty`. Without it or without
            `gamed` there is no length-controlled win rate.
        gamed: Location of `df_gamed.csv`.
        temperature: Sampling temperature of the responses.
        max_tokens: Token limit of a response.
        both_orders: Judge each pair in the other order as well, to measure position bias; doubles the cost.
    """

    baseline: str = f"{PUBLISHED}/alpaca_eval_gpt4_baseline.json"
    instruction_difficulty: str | None = f"{PUBLISHED}/instruction_difficulty.csv"
    gamed: str | None = f"{PUBLISHED}/df_gamed.csv"
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(2048, ge=1)
    both_orders: bool = False


class LengthControl(NamedTuple):
    """Inputs of the length-controlled win rate that are the same for all models; see `length_controlled_win_rate`."""

    instruction_difficulty: pd.DataFrame
    gamed: pd.DataFrame


class AlpacaEval(Benchmark):
    """Win rates against a baseline, raw and length-controlled."""

    name = "alpaca_eval"
    title = "AlpacaEval 2"
    parameters_model = AlpacaEvalParameters
    tables: ClassVar = {ANNOTATIONS: AlpacaEvalAnnotationTable}
    figure_dataset = "alpaca_eval_win_rates"
    main_metrics = ("length_controlled_win_rate", "win_rate")
    run_column = "generator_2"
    second_judge = True
    exports: ClassVar = {"alpaca_eval_outputs": model_outputs}

    parameters: AlpacaEvalParameters

    def files(self) -> dict[str, str]:
        """Return the locations of the files; the length-controlled win rate needs all instructions, and its files."""
        found = {"baseline": self.parameters.baseline}
        if self.limit is None and self.parameters.instruction_difficulty and self.parameters.gamed:
            found["instruction_difficulty"] = self.parameters.instruction_difficulty
            found["gamed"] = self.parameters.gamed
        return found

    def check_files(self) -> None:
        """Refuse a baseline whose rows lack a column."""
        for number, row in enumerate(read_json_rows(self.parameters.baseline), start=1):
            if missing := BASELINE_COLUMNS - row.keys():
                raise DataError(f"baseline: row {number} has no {', '.join(sorted(missing))}")

    def respond(self, write: Write) -> Iterable[Exchange]:
        """Return the responses to the baseline's instructions."""
        instructions = [row["instruction"] for row in read_json_rows(self.parameters.baseline)[: self.limit]]
        dialogues = {str(i): [{"role": "user", "content": text}] for i, text in enumerate(instructions)}
        sampling = SamplingParameters(
            temperature=self.parameters.temperature, max_tokens=self.parameters.max_tokens, seed=self.seed
        )
        responses = write(self.name, dialogues, sampling)
        return [Exchange(str(i), text, responses[str(i)]) for i, text in enumerate(instructions)]

    def judge(self, judging: Judging) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the annotations of each method."""
        baseline = pd.DataFrame(read_json_rows(self.parameters.baseline))
        verdict = judging.parameters.verdict
        for method, answers in judging.by_method():
            outputs = answers.rename(columns={"prompt": "instruction", "answer": "output"}).assign(generator=method)
            compared = pair_with_baseline(baseline, outputs)
            with judging.record(method):
                annotations = compare_with_baseline(compared, judging.judge, verdict=verdict)
                swapped: Mapping[str, Any] = {"preference": NAN, "unscored_reason": ""}
                if self.parameters.both_orders:
                    swapped = dict(compare_with_baseline(compared, judging.judge, swapped=True, verdict=verdict))
            both = annotations.assign(
                preference_swapped=swapped["preference"], unscored_reason_swapped=swapped["unscored_reason"]
            )
            yield ANNOTATIONS, both.rename_axis("index").reset_index()

    def metrics(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, Metric]:
        """Return win rates in percent, and the mean length of an output in characters."""
        annotations, _ = split_judges(tables[ANNOTATIONS])
        if annotations.empty:
            return {}
        indexed = annotations.set_index("index")
        judge, wins = str(annotations["annotator"].iloc[0]), percent_won(annotations)
        won = Metric(wins, PERCENT, unscored=int(wins.isna().sum()), judge=judge)
        metrics = {"win_rate": won}
        n, control = int(wins.notna().sum()), self.length_control
        # Few preferences cannot be regressed: draws of the instructions would hold none of them.
        if control is not None and len(annotations) == len(control.instruction_difficulty) and n >= MIN_VERDICT_N:
            found = length_controlled_win_rate(indexed, *control)
            resamples = length_controlled_resamples(indexed, *control, self.seed)
            controlled = Interval(found["length_controlled_winrate"], *percentile_interval(resamples), n)
            metrics["length_controlled_win_rate"] = won._replace(known=controlled, resamples=resamples)
            error = Interval(found["lc_standard_error"], NAN, NAN, n)
            metrics["lc_standard_error"] = won._replace(bounds=None, known=error)
        lengths = indexed["output_2"].str.len().astype(float)
        lengths = lengths.where((lengths > 0) | (indexed["unscored_reason"] == ""))  # a refused request has no length
        return metrics | {"mean_length": Metric(lengths, None, judge=judge)}

    @cached_property
    def length_control(self) -> LengthControl | None:
        """The inputs of the length-controlled win rate; None for a part of the instructions, or without its files."""
        files = self.files()
        if "gamed" not in files:
            return None
        return LengthControl(read_csv(files["instruction_difficulty"]), read_csv(files["gamed"]))

    def judge_properties(self, runs: Mapping[str, Mapping[str, pd.DataFrame]]) -> Iterator[dict[str, Any]]:
        """Yield length bias; position bias where pairs were judged in both orders; agreement with a second judge."""
        annotated = {run: split_judges(tables[ANNOTATIONS]) for run, tables in runs.items() if len(tables[ANNOTATIONS])}
        if not annotated:
            return
        table, others = (
            pd.concat({run: judges[which].set_index("index") for run, judges in annotated.items()}) for which in (0, 1)
        )
        judge = str(table["annotator"].iloc[0])
        found = {judge: length_bias(table, self.seed)}
        if table["preference_swapped"].notna().any():
            swapped = table.assign(
                preference=table["preference_swapped"], is_switched_outputs=~table["is_switched_outputs"]
            )
            found[judge] = pd.concat([position_bias(table, swapped, self.seed), found[judge]])
        if len(others):
            both = table.index.intersection(others.index)
            name = f"{judge} and {others['annotator'].iloc[0]}"
            found[name] = agreement(table.loc[both], others.loc[both], self.seed)
        for name, rows in found.items():
            yield from ({"judge": name, **{str(key): row[key] for key in row}} for row in rows.to_dict("records"))

    def verdicts(self, tables: Mapping[str, pd.DataFrame]) -> dict[ItemTurn, str]:
        """Return the first judge's preference for each output."""
        return {
            (row["generator_2"], str(row["index"]), 1): f"not judged: {row['unscored_reason']}"
            if row["unscored_reason"]
            else f"preferred over {row['generator_1']} with probability {row['preference'] - 1:.2f}, "
            f"says {row['annotator']}"
            for row in split_judges(tables[ANNOTATIONS])[0].to_dict("records")
        }

    def figure(self, scores: pd.DataFrame) -> go.Figure:
        """Return win rates, raw and length-controlled, over the mean length of the outputs."""
        figure = go.Figure()
        table = scores[scores["benchmark"] == self.name].set_index(["method", "metric"])
        methods, colors = list(dict.fromkeys(table.index.get_level_values("method"))), assign_colors(scores["method"])
        for metric, symbol, label in (
            ("win_rate", "circle", "win rate"),
            ("length_controlled_win_rate", "diamond-open", "length-controlled"),
        ):
            for method in methods:
                if (method, metric) not in table.index:
                    continue
                row, length = table.loc[(method, metric)], table.loc[(method, "mean_length"), "value"]
                figure.add_trace(
                    go.Scatter(
                        x=[length],
                        y=[row["value"]],
                        error_y=error_bars([row["high"] - row["value"]], [row["value"] - row["low"]]),
                        mode="markers",
                        name=f"{method}, {label}",
                        marker={"size": 11, "symbol": symbol, "color": colors[method]},
                    )
                )
        figure.update_xaxes(title_text="characters of an output, mean")
        figure.update_yaxes(title_text="preferred over the baseline (%)", rangemode="tozero")
        figure = apply_style(figure, f"{self.title}{describe_sample(table)}", height=440)
        beside = {
            "orientation": "v",
            "x": 1.02,
            "xanchor": "left",
            "y": 1,
            "yref": "paper",
        }  # a long title
        return figure.update_layout(legend=beside)


def split_judges(annotations: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the annotations of the first judge, from which scores are made, and those of the second one."""
    is_first = annotations["annotator"] == annotations["annotator"].iloc[:1].squeeze()
    return annotations[is_first], annotations[~is_first]


def percent_won(annotations: pd.DataFrame) -> pd.Series:
    """Return the preferences for the model in percent, by the index of the instruction; NaN where there is none."""
    return (annotations.set_index("index")["preference"] - 1) * 100
