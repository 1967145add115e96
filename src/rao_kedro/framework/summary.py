"""The summary of a run: headline numbers, counts of quarantined rows, places of reports and models.

It is read from the saved artefacts of the run. Knows nothing of terminals; its tables fit into 80 columns.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from rao_kedro.data.table_files import count_values
from rao_kedro.datasets import CheckpointDataset
from rao_kedro.evals.leaderboard import BASELINE

ROWS, METHODS, LINES = 20, 4, 8
QUARANTINES = {
    "quarantined_rows": "quarantined rows",
    "reward_benchmark_quarantine": "quarantined benchmark rows",
    "unscored_responses": "responses without a reward",
}
REPORTS = ("report", "benchmark_report")


def summary(pipeline: Pipeline, catalog: CatalogProtocol, project: Path) -> Iterator[str]:
    """Yield the lines of a run's summary.

    Args:
        pipeline: The nodes that ran.
        catalog: Where their artefacts are.
        project: The project's directory; paths are shown relative to it.
    """
    places = {name: place for name in sorted(pipeline.all_outputs()) if (place := _place(name, catalog)) is not None}
    if "leaderboard" in places:
        yield from _leaderboard_lines(catalog.load("leaderboard"))
    if "benchmark_scores" in places:
        yield from _benchmark_lines(catalog.load("benchmark_scores"))
    for name, title in QUARANTINES.items():
        if name in places:
            yield f"{title}: {_count_reasons(catalog.load(name))}"
    made = {name: places[name] for name in REPORTS if name in places}
    models = {name: place for name, place in places.items() if isinstance(catalog[name], CheckpointDataset)}
    if made:
        made |= {"models": next(iter(models.values())).parent} if models else {}
    else:
        made = models | {name.split("@")[0]: place for name, place in places.items() if name in pipeline.outputs()}
    for name, place in list(made.items())[:LINES]:
        yield f"{name.replace('_', ' ') if name in REPORTS else name}: {shown_path(place, project)}"
    if len(made) > LINES:
        yield f"and {len(made) - LINES} more: {', '.join(list(made)[LINES:])}"


def shown_path(path: Path, project: Path) -> str:
    """Return a path relative to the project, if it is inside."""
    return str(path.relative_to(project) if path.is_relative_to(project) else path)


def _place(name: str, catalog: CatalogProtocol) -> Path | None:
    """Return the path of a dataset; None for a dataset in memory."""
    dataset = catalog.get(name)
    place = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    return None if place is None or isinstance(dataset, MemoryDataset) else Path(str(place))


def _leaderboard_lines(board: pd.DataFrame) -> Iterator[str]:
    """Yield the columns of the leaderboard that fit into a line."""
    columns = {"rule_score": "rule score", "rule_score_gain": f"gain over {BASELINE}", "reward_gain": "reward gain"}
    columns |= {"kl_to_reference": "KL"}
    shown = [name for name in columns if name in board and board[name].notna().any()]
    rows = [["method", *(columns[name] for name in shown)]]
    for row in board.head(ROWS).to_dict("records"):
        rows.append([str(row["method"]), *(_cell(row, name) for name in shown)])
    yield from ("", *_align(rows), "")
    if len(board) > ROWS:
        yield f"and {len(board) - ROWS} more methods in the leaderboard"


def _cell(row: dict[object, object], name: str) -> str:
    """Return a number of the leaderboard; a gain has its interval, and the baseline has no gain over itself."""
    value, low, high = (float(str(row.get(key, math.nan))) for key in (name, f"{name}_low", f"{name}_high"))
    if not name.endswith("_gain"):
        return "" if math.isnan(value) else f"{value:.3f}"
    if math.isnan(value) or row["method"] == BASELINE:
        return ""
    digits = 2 if name == "reward_gain" else 3
    return f"{value:+.{digits}f}" + ("" if math.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def _benchmark_lines(scores: pd.DataFrame) -> Iterator[str]:
    """Yield the scores of the benchmarks, a column for each method."""
    methods = list(scores["method"].unique())
    shown, kinds = methods[:METHODS], list(scores.groupby(["benchmark", "metric"], sort=False))
    rows = [["benchmark", "metric", *shown]] if kinds else []
    for (benchmark, metric), of_kind in kinds[:ROWS]:
        values = dict(zip(of_kind["method"], of_kind["value"], strict=True))
        rows.append([benchmark, metric, *(f"{values[m]:.1f}" if m in values else "" for m in shown)])
    yield from (*_align(rows), "") if rows else ()
    if len(kinds) > ROWS or len(methods) > METHODS:
        yield "and more in the benchmark report"


def _align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows of cells as lines whose columns are aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _count_reasons(quarantined: pd.DataFrame | Path) -> str:
    """Return the number of rows for each reason."""
    if isinstance(quarantined, Path):
        counts = Counter({reason: n for (reason,), n in count_values(quarantined, ["reason"]).items()})
    else:
        counts = Counter(quarantined["reason"])
    if len(counts) == 1:
        return f"{counts.total()} ({next(iter(counts))})"
    by_reason = ", ".join(f"{reason} {n}" for reason, n in counts.most_common(LINES))
    return f"{counts.total()} ({by_reason})" if counts else "none"
