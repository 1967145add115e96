"""Reads the rows of downstream benchmarks from local files, as their authors published them, or from the hub.

This project's task files name `load_task` as their `custom_dataset`, so that the same tasks run on both.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetNotFoundError

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.readers import read_rows
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.downstream.formats import Item, Row
from rao_kedro.evals.downstream.parameters import TaskSource
from rao_kedro.evals.downstream.registry import TASKS
from rao_kedro.identity import file_hash

SUBJECTS = re.findall(r"subject: (\w+)\}", (Path(__file__).parent / "tasks/rao_mmlu.yaml").read_text())


def read_items(task: str, source: TaskSource | None = None, subject: str = "", split: str | None = None) -> list[Item]:
    """Read the items of a task.

    Args:
        task: A name in `TASKS`.
        source: Source of the rows; None for the usual dataset on the hub.
        subject: A subject of MMLU.
        split: Replaces the source's split: MMLU's examples are in `dev`.

    Raises:
        DataError: The source cannot be read, or a row does not have the task's format. Rows are never left out, since
            that would change the benchmark.
        ParameterError: The name is unknown.
    """
    if task not in TASKS:
        raise ParameterError(f"unknown downstream task {task!r}: choose one of {', '.join(TASKS)}")
    source = _whole(task, source)
    split = split or source.split or str(TASKS[task].hub.split)
    rows = _local_rows(source, subject, split) if source.path else _HubRows(source).rows(subject, split)
    return _items(task, rows, source, subject)


def _items(task: str, rows: Iterable[Row], source: TaskSource, subject: str) -> list[Item]:
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(TASKS[task].read(row, f"{subject}:{number}" if subject else str(number)))
        except DataError as error:
            raise DataError(f"{source.path or source.hub_id}: row {number} is not a row of {task}: {error}") from error
    if not items:
        raise DataError(f"{source.path or source.hub_id} has no rows of {task}")
    return items


def _whole(task: str, source: TaskSource | None) -> TaskSource:
    """Return a source whose unset fields are filled from the usual dataset on the hub."""
    if source is not None and (source.path or source.hub_id):
        return source
    return TASKS[task].hub.model_copy(update=source.model_dump(exclude_none=True) if source else {})


def collect_rows(task: str, source: TaskSource | None, directory: Path) -> dict[str, Any]:
    """Read the rows of a task, check them, and write them to a file (for MMLU, a directory) that `path` can name.

    Args:
        task: A name in `TASKS`.
        source: Source of the rows; None for the usual dataset on the hub.
        directory: The directory to write into.

    Returns:
        The source of the rows, the commit on the hub if it is known, the `file`, its `sha256` (for MMLU, the hash of
        its files' hashes), and the number of `rows`.

    Raises:
        DataError: As for `read_items`.
    """
    source = _whole(task, source)
    split = source.split or str(TASKS[task].hub.split)
    hub = None if source.path else _HubRows(source, together=source.hub_id == TASKS["mmlu"].hub.hub_id)
    if task == "mmlu":
        parts = [(subject, part) for subject in SUBJECTS for part in (split, "dev")]
        files = {part: directory / "mmlu/data" / part[1] / f"{part[0]}_{part[1]}.jsonl" for part in parts}
    else:
        files = {("", split): directory / f"{task}.jsonl"}
    n = 0
    for (subject, part), file in files.items():
        rows = list(hub.rows(subject, part) if hub else _local_rows(source, subject, part))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        n += len(_items(task, rows, source, subject))
    hashes = [file_hash(file) for file in files.values()]
    return {
        "location": source.path or source.hub_id,
        "subset": source.subset,
        "split": split,
        "revision": hub.commit if hub else None,
        "file": "mmlu" if task == "mmlu" else f"{task}.jsonl",
        "sha256": (hashlib.sha256(b"".join(hashes)).digest() if len(hashes) > 1 else hashes[0]).hex(),
        "rows": n,
    }


def load_task(
    task: str, subject: str = "", sources: Mapping[str, Mapping[str, Any]] | None = None, **_: object
) -> dict[str, Dataset]:
    """Return a task's data in the form that lm-evaluation-harness expects of a `custom_dataset`.

    Args:
        task: A name in `TASKS`, from the task file's `dataset_kwargs`.
        subject: A subject of MMLU, from the task file's `dataset_kwargs`.
        sources: The fields of a `TaskSource` by task, from the metadata of the `TaskManager` or of the command line:
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
    if (collected := path / "data" / split / f"{subject}_{split}.jsonl").is_file():
        yield from map(json.loads, collected.read_text().splitlines())
        return
    root = zipfile.Path(path) if path.is_file() else path
    if not (file := root / "data" / split / f"{subject}_{split}.csv").is_file():
        raise DataError(f"{path} has no data/{split}/{subject}_{split}.csv, unlike the archive of hendrycks/test")
    text = io.StringIO(file.read_bytes().decode("utf-8"), newline="")  # some questions have "\r\n" in them
    for number, row in enumerate(csv.reader(text), start=1):
        if len(row) != 6:
            raise DataError(f"{file}: row {number} has {len(row)} columns, expected question, A, B, C, D and answer")
        yield {"question": row[0], "choices": row[1:5], "answer": row[5], "subject": subject}


class _HubRows:
    """Rows of a dataset on the hub; each subset is loaded once.

    Attributes:
        commit: Commit of the subset that was loaded last, if the hub's library reports it.
    """

    def __init__(self, source: TaskSource, together: bool = False) -> None:
        """Set the source, and whether one subset holds all subjects, as in cais/mmlu."""
        self.source, self.together = source, together
        self.commit: str | None = None
        self._load = cache(self._loaded)

    def rows(self, subject: str, split: str) -> Iterator[Row]:
        """Yield the rows of a split, or of one subject in it."""
        of_all = bool(subject) and self.together
        for row in self._load("all" if of_all else subject or self.source.subset, split):
            if not of_all or row["subject"] == subject:
                yield dict(row)

    def _loaded(self, subset: str | None, split: str) -> list[Row]:
        source = self.source
        try:
            table = load_dataset(source.hub_id, subset, split=split, revision=source.revision)
        except (DatasetNotFoundError, OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the dataset {source.hub_id!r} (subset {subset!r}, split {split!r}) cannot be loaded from the hub "
                f"now: check the name, or set `path` of the task's source to a local copy ({error})"
            ) from error
        files = " ".join(table.info.download_checksums or {})
        found = re.search(r"@([0-9a-f]{40})/", files)  # hf://datasets/<name>@<commit>/<file>
        self.commit = found.group(1) if found else source.revision
        return list(table)
