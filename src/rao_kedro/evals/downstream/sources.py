"""Where the rows of downstream benchmarks come from: local files as their authors published them, or the hub.

`load_task` is what this project's task files name as `custom_dataset`, so that the same tasks run on both.
"""

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.downstream import formats
from rao_kedro.evals.downstream.formats import Item, Row
from rao_kedro.preferences.readers import read_rows
from rao_kedro.schemas.benchmarks import DOWNSTREAM, TaskSource
from rao_kedro.schemas.parameters import PreferenceSource


@dataclass(frozen=True)
class _Task:
    read: Callable[[Row, str], Item]
    hub: TaskSource


def _hub(hub_id: str, subset: str | None = None, split: str = "test") -> TaskSource:
    return TaskSource(hub_id=hub_id, subset=subset, split=split)


_TASKS = {
    "gsm8k": _Task(formats.gsm8k, _hub("openai/gsm8k", "main")),
    "arc_easy": _Task(formats.arc, _hub("allenai/ai2_arc", "ARC-Easy")),
    "arc_challenge": _Task(formats.arc, _hub("allenai/ai2_arc", "ARC-Challenge")),
    # Copies without a loading script, which `datasets` no longer runs.
    "mathqa": _Task(formats.mathqa, _hub("regisss/math_qa")),
    "socialiqa": _Task(formats.socialiqa, _hub("lighteval/siqa", split="validation")),
    "mmlu": _Task(formats.mmlu, _hub("cais/mmlu")),
}


def read_items(task: str, source: TaskSource | None = None, subject: str = "", split: str | None = None) -> list[Item]:
    """Read the items of a task.

    Args:
        task: One of `DOWNSTREAM`.
        source: Where its rows are; the usual dataset of the hub if not set.
        subject: A subject, of MMLU.
        split: A split other than the source's, of MMLU: `dev` for the examples.

    Raises:
        DataError: The source cannot be read, or a row does not fit: a benchmark with rows left out is another one.
        ParameterError: The name is unknown.
    """
    if task not in _TASKS:
        raise ParameterError(f"unknown downstream task {task!r}: choose one of {', '.join(DOWNSTREAM)}")
    known = _TASKS[task]
    if source is None or not (source.path or source.hub_id):
        source = known.hub.model_copy(update=source.model_dump(exclude_none=True) if source else {})
    split = split or source.split or str(known.hub.split)
    rows = _local_rows(source, subject, split) if source.path else _hub_rows(source, subject, split)
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(known.read(row, f"{subject}:{number}" if subject else str(number)))
        except DataError as error:
            raise DataError(f"{source.path or source.hub_id}: row {number} is no row of {task}: {error}") from error
    if not items:
        raise DataError(f"{source.path or source.hub_id} has no rows of {task}")
    return items


def load_task(
    task: str, subject: str = "", sources: Mapping[str, Mapping[str, Any]] | None = None, **_: object
) -> dict[str, Dataset]:
    """Return a task's data as lm-evaluation-harness asks for it.

    Args:
        task: One of `DOWNSTREAM`; from the task file's `dataset_kwargs`, as the next one is.
        subject: A subject, of MMLU.
        sources: By task, the fields of a `TaskSource`. From the metadata of the `TaskManager`, or of the command line:
            `--metadata '{"sources": {"gsm8k": {"path": "test.jsonl"}}}'`.
        **_: The rest of the metadata.

    Returns:
        `test`, and for a subject `dev`: tables with the fields of `Item`.
    """
    source = TaskSource(**(sources or {}).get(task, {}))
    splits = {"test": None, "dev": "dev"} if subject else {"test": None}
    return {name: _table(read_items(task, source, subject, split)) for name, split in splits.items()}


def _table(items: Iterable[Item]) -> Dataset:
    return Dataset.from_list([asdict(item) | {"choices": list(item.choices)} for item in items])


def _local_rows(source: TaskSource, subject: str, split: str) -> Iterator[Row]:
    path = Path(str(source.path)).expanduser()
    if not path.exists():
        raise DataError(f"{path}: there is no such file; set `path` of the task's source, or leave it out for the hub")
    if subject:
        yield from _mmlu_rows(path, subject, split)
        return
    rows = [row.content for row in read_rows(PreferenceSource(path=str(path)))]
    labels = path.with_name(f"{path.name.removesuffix('.gz').removesuffix('.jsonl')}-labels.lst")
    if labels.exists():
        found = labels.read_text(encoding="utf-8").split()
        if len(found) != len(rows):
            raise DataError(f"{labels} has {len(found)} labels for the {len(rows)} rows of {path}")
        rows = [
            row | {"label": label} if isinstance(row, dict) else row for row, label in zip(rows, found, strict=True)
        ]
    for row in rows:
        if isinstance(row, str):
            raise DataError(f"{path}: {row[:80]!r} is not a JSON object")
        yield row


def _mmlu_rows(path: Path, subject: str, split: str) -> Iterator[Row]:
    """Yield rows of `data/<split>/<subject>_<split>.csv`: question, four choices, letter; without a header."""
    root = zipfile.Path(path) if path.is_file() else path
    if not (file := root / "data" / split / f"{subject}_{split}.csv").is_file():
        raise DataError(f"{path} has no data/{split}/{subject}_{split}.csv, as the archive of hendrycks/test has")
    text = io.StringIO(file.read_bytes().decode("utf-8"), newline="")  # some questions have "\r\n" in them
    for number, row in enumerate(csv.reader(text), start=1):
        if len(row) != 6:
            raise DataError(f"{file}: row {number} has {len(row)} columns, expected question, A, B, C, D and answer")
        yield {"question": row[0], "choices": row[1:5], "answer": row[5], "subject": subject}


def _hub_rows(source: TaskSource, subject: str, split: str) -> Iterator[Row]:
    subset = subject or source.subset
    try:
        rows = load_dataset(source.hub_id, subset, split=split, revision=source.revision)
    except (DatasetNotFoundError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the dataset {source.hub_id!r} (subset {subset!r}, split {split!r}) cannot be had from the hub now: check "
            f"the name, or set `path` of the task's source to a local copy ({error})"
        ) from error
    for row in rows:
        yield dict(row)
