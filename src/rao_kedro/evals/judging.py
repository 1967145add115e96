"""Lets judges read the answers to the judged benchmarks. Knows neither Kedro nor a particular benchmark."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rao_kedro.config.servers import JudgeParameters
from rao_kedro.evals.benchmark import Judging, concatenate
from rao_kedro.evals.parameters import BenchmarkParameters
from rao_kedro.evals.registry import BENCHMARKS
from rao_kedro.evals.tables import JudgeUsageTable
from rao_kedro.judges.judge import Judge, Rehearsal
from rao_kedro.judges.vllm_server import stop_servers

logger = logging.getLogger(__name__)


class Judgments(NamedTuple):
    """What judges wrote, and what it took.

    Attributes:
        tables: Judgments of all registered benchmarks, by dataset (`Benchmark.tables`).
        usage: Table of `JudgeUsageTable`.
    """

    tables: dict[str, pd.DataFrame]
    usage: pd.DataFrame


def judge_answers(answers: pd.DataFrame, parameters: BenchmarkParameters, cache_dir: Path) -> Judgments:
    """Let the judges read the answers.

    The expected cost is logged before the first request. A judge that vLLM serves here starts once, and has ended when
    this returns.

    Args:
        answers: Table of `BenchmarkAnswerTable`, all methods.
        parameters: The benchmarks' parameters, and the judges.
        cache_dir: Where judgments are kept, so that none is asked for twice.

    Returns:
        The tables; empty ones for benchmarks without answers.

    Raises:
        DataError: A benchmark's file cannot be read.
        GenerationError: A judge cannot be reached, or costs more than it may; finished judgments are kept.
    """
    judges = [(how, Judge(how, cache_dir)) for how in (parameters.judge, parameters.second_judge) if how is not None]
    answered = [one for name, one in parameters.registered().items() if (answers["benchmark"] == name).any()]
    found: dict[str, list[pd.DataFrame]] = {dataset: [] for kind in BENCHMARKS.values() for dataset in kind.tables}
    usage: list[dict[str, object]] = []

    def ask(how: JudgeParameters, asked: Judge | Rehearsal) -> Iterator[tuple[str, pd.DataFrame]]:
        for benchmark in answered:
            if how is parameters.judge or benchmark.second_judge:
                of_benchmark = answers[answers["benchmark"] == benchmark.name]
                record = partial(_record, usage, asked, benchmark.name)
                yield from benchmark.judge(Judging(of_benchmark, asked, how, record))

    try:
        for how, judge in judges if answered else []:
            rehearsal = Rehearsal(judge)
            for _ in ask(how, rehearsal):
                pass
            judge.forecast(rehearsal.requests.values())
        for how, judge in judges:
            stop_servers()  # two models may not fit beside each other
            for dataset, table in ask(how, judge):
                found[dataset].append(table)
    finally:
        stop_servers()
    _warn_of_unscored(found)
    schemas = {dataset: schema for kind in BENCHMARKS.values() for dataset, schema in kind.tables.items()}
    return Judgments(
        {dataset: concatenate(tables, schemas[dataset]) for dataset, tables in found.items()},
        pd.DataFrame(usage) if usage else JudgeUsageTable.empty(),
    )


def _warn_of_unscored(found: Mapping[str, Sequence[pd.DataFrame]]) -> None:
    """Log per dataset how many judgments hold no score, and the most frequent reason."""
    for dataset, tables in found.items():
        rows = [
            max(row, key=len, default="") for table in tables for row in table.filter(like="unscored_reason").to_numpy()
        ]
        if reasons := Counter(filter(None, rows)).most_common():
            n = sum(count for _, count in reasons)
            logger.warning("%d of %d rows of %s have no score, most often: %s", n, len(rows), dataset, reasons[0][0])


@contextmanager
def _record(
    usage: list[dict[str, object]], asked: Judge | Rehearsal, benchmark: str, method: str, purpose: str = ""
) -> Iterator[None]:
    """Append a row of `JudgeUsageTable` for the requests that are sent in this context; a rehearsal sends none.

    Args:
        usage: The rows.
        asked: The judge, or its rehearsal.
        benchmark: Name of the benchmark.
        method: The method whose answers are judged.
        purpose: What tables call these requests, if not by the name of the benchmark.
    """
    if isinstance(asked, Rehearsal):
        yield
        return
    before, prices = asked.usage, asked.prices
    yield
    used = asked.usage.since(before)
    about = {"method": method, "benchmark": purpose or benchmark, "judge": asked.model, "identity": asked.identity}
    cost = prices.cost(used.prompt_tokens, used.completion_tokens)
    reused_cost = prices.cost(used.reused_prompt_tokens, used.reused_completion_tokens)
    usage.append({**about, **used._asdict(), "cost": cost, "reused_cost": reused_cost})
