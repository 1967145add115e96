"""The protocol of a benchmark whose responses a judge reads. Knows no particular benchmark.

A benchmark is one subclass of `Benchmark`, in a folder or file of its own, and one line in `evals.registry`. Files,
generation, judging, scores, pipeline, catalog and report take everything from that class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from pydantic import Field

from rao_kedro.config.base import Parameters
from rao_kedro.config.generation import SamplingParameters
from rao_kedro.config.servers import JudgeParameters
from rao_kedro.data.tables import Table
from rao_kedro.evals.responses import Response
from rao_kedro.judges.client import Message
from rao_kedro.judges.judge import ChatModel
from rao_kedro.plotting import apply_style, assign_colors, error_bars
from rao_kedro.statistics import NAN, Bounds, Interval

PERCENT = (0.0, 100.0)
# Writes the response to each dialogue, by name: the name of the whole set, the dialogues, and how to sample.
Write = Callable[[str, Mapping[str, Sequence[Message]], SamplingParameters], Mapping[str, Response]]
ItemTurn = tuple[str, str, int]  # method, item and turn


class BenchmarkBlock(Parameters):
    """Parameters that every judged benchmark has: the block `evaluation.benchmarks.<name>`.

    Attributes:
        max_tokens: Token limit of a response.
    """

    max_tokens: int = Field(1024, ge=1)


class Exchange(NamedTuple):
    """One turn of an item.

    Attributes:
        item_id: Names the item within its benchmark.
        prompt: The user's message of this turn.
        response: What the model wrote.
        turn: Counts from 1.
    """

    item_id: str
    prompt: str
    response: Response
    turn: int = 1


class Judging(NamedTuple):
    """One judge's session on one benchmark.

    Attributes:
        answers: Table of `BenchmarkAnswerTable`: the answers of all methods to this benchmark.
        judge: Answers dialogues.
        parameters: How this judge is asked and read.
        record: Context in which requests are counted: takes the method, and what they are for if not the benchmark as
            such.
    """

    answers: pd.DataFrame
    judge: ChatModel
    parameters: JudgeParameters
    record: Callable[..., AbstractContextManager[None]]

    def by_method(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield each method with its answers."""
        for method, answers in self.answers.groupby("method", sort=False):
            yield str(method), answers


class Metric(NamedTuple):
    """What one run of a method got on a metric.

    Attributes:
        values: One value per item; NaN where an item has none.
        bounds: Lowest and highest possible value of an item; None without bounds.
        known: The metric with its interval, where it is not the mean of `values`.
        resamples: The metric on bootstrap draws of the items, `[draws]`. The draws are the same for all runs, so that
            differences are paired. None where the metric is the mean of `values`.
        unscored: Number of responses and judgments from which no answer could be read.
        judge: Name of the judge; "" without one.
        chance: What guessing gets; NaN where that is unknown.
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


class Benchmark(ABC):
    """A benchmark with a judge, for one set of parameters.

    Attributes:
        name: Name in `evaluation.benchmarks.names`, in tables, and of its block of parameters.
        title: Heading in reports.
        parameters_model: Pydantic model of its block `evaluation.benchmarks.<name>`; every field has a default.
        tables: Schemas of what judging yields, by dataset. A dataset `<name>_judgments` needs no catalog entry.
        figure_dataset: Dataset of `figure`; a dataset `<name>_figure` needs no catalog entry.
        main_metrics: Metrics in the table that compares methods on preference benchmarks, in their order.
        run_column: Column of the tables that names the run of a method.
        second_judge: Whether `evaluation.benchmarks.second_judge` reads the answers, too.
        exports: Further datasets in the benchmark's own format, made from the answers of all methods.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameters_model: ClassVar[type[BenchmarkBlock]] = BenchmarkBlock
    tables: ClassVar[Mapping[str, type[Table]]]
    figure_dataset: ClassVar[str]
    main_metrics: ClassVar[tuple[str, ...]]
    run_column: ClassVar[str] = "method"
    second_judge: ClassVar[bool] = False
    exports: ClassVar[Mapping[str, Callable[[pd.DataFrame], Any]]] = {}

    def __init__(self, parameters: Any = None, limit: int | None = None, seed: int = 0) -> None:
        """Bind the benchmark to its parameters.

        Args:
            parameters: Its block; None takes the defaults of `parameters_model`.
            limit: Number of items, the first ones; None takes all.
            seed: Seeds sampling and the resampling of intervals.
        """
        self.parameters = self.parameters_model() if parameters is None else parameters
        self.limit, self.seed = limit, seed

    @abstractmethod
    def files(self) -> Mapping[str, str]:
        """Return the locations of the files that the benchmark reads, by the field of its parameters."""

    @abstractmethod
    def check_files(self) -> None:
        """Refuse files that generation or judging would fail on, hours later.

        Raises:
            DataError: A file does not have the benchmark's form; names the field.
        """

    @abstractmethod
    def respond(self, write: Write) -> Iterable[Exchange]:
        """Return a model's responses.

        Args:
            write: Lets the model respond to dialogues.
        """

    @abstractmethod
    def judge(self, judging: Judging) -> Iterator[tuple[str, pd.DataFrame]]:
        """Ask a judge about the answers; yield tables by dataset, several of one dataset if need be.

        The code asks once with a judge that only counts the requests, for the forecast of the cost.
        """

    @abstractmethod
    def metrics(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, Metric]:
        """Return the metrics of one run of a method.

        Args:
            tables: The run's rows of `self.tables`, which may be empty.
        """

    def judge_properties(self, runs: Mapping[str, Mapping[str, pd.DataFrame]]) -> Iterable[dict[str, Any]]:
        """Return what is known of the judge: rows of `JudgeReportTable` without the method.

        Args:
            runs: Tables of one method, by run.
        """
        return ()

    @abstractmethod
    def verdicts(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[ItemTurn, str]:
        """Return a sentence per answer that says how it was judged, for the examples of the report."""

    def figure(self, scores: pd.DataFrame) -> go.Figure:
        """Return the figure of the benchmark: by default its main metrics with their intervals.

        Args:
            scores: Table of `BenchmarkScoreTable`, all benchmarks.
        """
        rows = scores[(scores["benchmark"] == self.name) & scores["metric"].isin(self.main_metrics)]
        figure, colors = go.Figure(), assign_colors(scores["method"])
        for method, of_method in rows.groupby("method", sort=False):
            bars = error_bars(of_method["high"] - of_method["value"], of_method["value"] - of_method["low"])
            color = {"color": colors[str(method)]}
            figure.add_trace(
                go.Bar(x=of_method["metric"], y=of_method["value"], error_y=bars, name=str(method), marker=color)
            )
        figure.update_layout(barmode="group")
        return apply_style(figure, f"{self.title}{describe_sample(rows)}", height=440)


def concatenate(tables: Sequence[pd.DataFrame], schema: type[Table]) -> pd.DataFrame:
    """Return the rows of all tables; without any, the empty table of a schema."""
    return pd.concat(tables, ignore_index=True) if tables else schema.empty()


def describe_sample(scores: pd.DataFrame) -> str:
    """Return n and the judge for the title of a figure: no result is shown without them.

    Args:
        scores: The rows of `BenchmarkScoreTable` that the figure shows.
    """
    if scores.empty:
        return ": not chosen"
    judges = sorted(set(scores["judge"]) - {""})
    judged = f", judged by {', '.join(judges)}" if judges else ""
    return f" (n up to {int(scores['n'].max())}{judged}; 95 % intervals)"
