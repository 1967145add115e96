"""Reads the prompts of a reward benchmark, and scores the rewards of their responses.

Knows nothing about how rewards are computed.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import pandas as pd

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.quarantine import (
    NoGroupsLeftError,
    QuarantineReason,
    ReasonCounts,
    UnusableRow,
    quarantined_row,
    quarantined_table,
)
from rao_kedro.data.readers import RawRow, data_files, is_saved_dataset, read_rows
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.reward_benchmarks.items import BenchmarkItem
from rao_kedro.evals.reward_benchmarks.registry import REWARD_BENCHMARKS, RewardBenchmark
from rao_kedro.evals.reward_benchmarks.scoring import Result, ScoredPrompt


def read_benchmark(name: str, source: PreferenceSource | None = None) -> tuple[list[BenchmarkItem], pd.DataFrame]:
    """Read the prompts of a benchmark.

    Args:
        name: A name in `REWARD_BENCHMARKS`.
        source: Where the rows are, in the authors' schema; None takes the authors' dataset on the hub.

    Returns:
        The items, and a table of `QuarantineTable` with the rows that do not fit the schema.

    Raises:
        DataError: The source cannot be read, or none of its rows fits.
        ParameterError: The name is unknown, the benchmark is not on the hub and no source is given, or the source has
            parameters that only preference data have.
    """
    benchmark = _benchmark(name)
    if (source := source or benchmark.source) is None:
        raise ParameterError(
            f"reward benchmark {name!r} is not on the hub: clone "
            "https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark and set `path` to its directory RMB_dataset"
        )
    if unused := sorted({"format", "columns", "rating_key"} & source.model_fields_set):
        raise ParameterError(
            f"reward benchmark {name!r}: {', '.join(unused)} of its source is for preference data, a benchmark is read "
            "in its authors' schema"
        )
    items: dict[tuple[str, str, str], BenchmarkItem] = {}
    dropped = []
    for row in _rows(source):
        try:
            item = _read(benchmark, row)
            if (key := (item.section, item.subset, item.item_id)) in items:
                raise UnusableRow(QuarantineReason.DUPLICATE_ROW, f"an earlier row has the id {item.item_id}")
            items[key] = item
        except UnusableRow as problem:
            dropped.append(quarantined_row(row.source, problem.reason, problem.detail, row.content))
    quarantined = quarantined_table(dropped)
    if not items:
        place = source.path or source.hub_id
        raise NoGroupsLeftError(f"no row of {place} fits the schema of {name}", ReasonCounts(dropped), quarantined)
    return list(items.values()), quarantined


def prompt_groups(name: str, items: Sequence[BenchmarkItem]) -> list[PromptGroup]:
    """Return the groups that a reward scores: one per item, its chosen responses before its rejected ones."""
    return [
        PromptGroup(f"{name}:{i}:{item.item_id}", item.messages, [*item.chosen, *item.rejected])
        for i, item in enumerate(items)
    ]


def score_benchmark(
    name: str, items: Sequence[BenchmarkItem], rewards: Sequence[Sequence[float]], seed: int
) -> pd.DataFrame:
    """Score rewards on a benchmark.

    Args:
        name: A name in `REWARD_BENCHMARKS`.
        items: Prompts of the benchmark.
        rewards: The rewards of `prompt_groups(name, items)`. A prompt with a response whose reward is NaN is left out,
            and counted.
        seed: Seeds the resampling of intervals.

    Returns:
        Columns `benchmark, section, subset, metric, value, low, high, n, n_unscored`. The metric `score` of section and
        subset "all" is the benchmark's headline; it is NaN where a section has no scored prompt. Intervals (95 %, over
        prompts) belong to means over prompts, and are NaN for values that are made of such means.

    Raises:
        DataError: There are no items.
        ParameterError: The name is unknown.
    """
    benchmark = _benchmark(name)
    if not items:
        raise DataError(f"there is no prompt of {name} to score: read some with `read_benchmark`")
    prompts = [
        ScoredPrompt(item, list(of_item[: len(item.chosen)]), list(of_item[len(item.chosen) :]))
        for item, of_item in zip(items, rewards, strict=True)
    ]
    table = pd.DataFrame(benchmark.score_prompts(prompts, seed), columns=Result._fields)
    table.insert(0, "benchmark", name)
    return table


def _read(benchmark: RewardBenchmark, row: RawRow) -> BenchmarkItem:
    if isinstance(row.content, str):
        raise UnusableRow(QuarantineReason.INVALID_JSON, row.problem)
    return benchmark.read_row(row.content)


def _rows(source: PreferenceSource) -> Iterator[RawRow]:
    """Yield the rows of a source; of a directory, also those of the directories in it."""
    path = source.path and Path(source.path).expanduser()
    if not path or not path.is_dir() or is_saved_dataset(path):
        return read_rows(source)
    rows = chain.from_iterable(read_rows(PreferenceSource(path=str(file))) for file in data_files(path))
    return islice(rows, source.skip_rows, source.max_rows and source.skip_rows + source.max_rows)


def _benchmark(name: str) -> RewardBenchmark:
    if name not in REWARD_BENCHMARKS:
        raise ParameterError(f"unknown reward benchmark {name!r}: choose one of {', '.join(REWARD_BENCHMARKS)}")
    return REWARD_BENCHMARKS[name]
