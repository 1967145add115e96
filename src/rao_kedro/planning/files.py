"""Checks of the files that parameters name: they exist and can be opened."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kedro.io import DatasetError

from rao_kedro.config.data_engineering import ConversationFiles, PreferenceFiles, RowSource, SampledResponses
from rao_kedro.data.readers import COMPRESSIONS, data_files, read_rows
from rao_kedro.errors import DataError
from rao_kedro.evals.downstream.parameters import FILE_FORMATS, HarnessDataset
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.planning.models import HUB_NAME
from rao_kedro.planning.steps import Run

LARGE = 2**28  # bytes; of larger files not even the first row is read here, since a JSON list is read as a whole


def preference_problems(preferences: PreferenceFiles) -> Iterator[str]:
    """Yield why preference data could not be read."""
    for part, source in preferences:
        if source is not None and source.path is not None:
            yield from source_problems(f"data.preferences.{part}", source)


def data_bytes(source: RowSource) -> int:
    """Return how many bytes the tables of a local source take at least; 0 where that cannot be told.

    Texts are kept once as groups and once with their tokens; compressed files are at least three times as large when
    they are read.
    """
    path = Path(str(source.path)).expanduser()
    if source.path is None or source.max_rows is not None or not path.exists():
        return 0
    found = data_files(path) if path.is_dir() else [path]
    return sum(file.stat().st_size * (3 if file.suffix in COMPRESSIONS else 1) for file in found)


def conversation_problems(conversations: ConversationFiles) -> Iterator[str]:
    """Yield why conversations could not be read."""
    for part, source in (("train", conversations.train), ("validation", conversations.validation)):
        if source is not None and source.path is not None:
            yield from source_problems(f"data.conversations.{part}", source)


def source_problems(parameter: str, source: RowSource) -> Iterator[str]:
    """Yield why the first row of a local source could not be read."""
    path = Path(str(source.path)).expanduser()
    if path.is_file() and path.stat().st_size > LARGE:
        yield from file_problems(f"{parameter}.path", str(path))
        return
    try:
        if next(read_rows(source), None) is None:
            skipped = f" after the {source.skip_rows} of {parameter}.skip_rows" if source.skip_rows else ""
            yield f"parameter {parameter}.path: {path} has no row{skipped}"
    except DataError as error:
        yield f"parameter {parameter}.path: {error}"


def prompt_problems(run: Run, sampled: SampledResponses, n_evaluation: int) -> Iterator[str]:
    """Yield why responses could not be sampled: prompts cannot be read, or there are too few."""
    dataset = run.catalog.get("prompts")
    if dataset is None or not dataset.exists():  # said of every missing input
        return
    try:
        there = dataset.load()["split"].value_counts()
    except (DatasetError, KeyError) as error:
        yield f"prompts: {run.place('prompts')} cannot be read as prompts ({error})"
        return
    for split, wanted in (("train", sampled.train_prompts), ("test", sampled.validation_prompts + n_evaluation)):
        if (found := int(there.get(split, 0))) < wanted:
            yield (
                f"prompts: split {split} has {found} prompts, and {wanted} are needed: lower data.sampled.*_prompts "
                "or data.evaluation_prompts, or add prompts"
            )


def benchmark_problems(benchmarks: AnsweredBenchmarks) -> Iterator[str]:
    """Yield which files of the chosen benchmarks are not there."""
    for benchmark in benchmarks.judged:
        for field, location in benchmark.files().items():
            yield from file_problems(f"evaluation.benchmarks.{benchmark.name}.{field}", location)
    for task in benchmarks.downstream:
        source = benchmarks.sources.get(task)
        if source is not None and source.path is not None:
            yield from file_problems(f"evaluation.benchmarks.sources.{task}.path", source.path, or_directory=True)
    for task, dataset in benchmarks.harness.datasets.items():
        yield from _harness_problems(f"evaluation.benchmarks.harness.datasets.{task}", dataset)
    if benchmarks.harness.tasks:
        yield from _unknown_tasks(benchmarks.harness.tasks)


@cache
def _unknown_tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Return a sentence on each name that is no task of lm-evaluation-harness; it takes seconds to read all of them."""
    from rao_kedro.evals.downstream.named_tasks import unknown_tasks

    return tuple(f"parameter evaluation.benchmarks.{sentence}" for sentence in unknown_tasks(tasks))


def _harness_problems(parameter: str, dataset: HarnessDataset) -> Iterator[str]:
    path = Path(dataset.dataset_path).expanduser()
    if dataset.dataset_path not in FILE_FORMATS and not path.exists() and not HUB_NAME.fullmatch(dataset.dataset_path):
        yield f"parameter {parameter}.dataset_path: there is no {path}, and it is no name of the hub"
    given = dataset.dataset_kwargs.get("data_files", [])
    for named in given.values() if isinstance(given, dict) else [given]:
        for file in [named] if isinstance(named, str) else named:
            if not {*"*?["} & {*file}:  # no pattern
                place = file if dataset.dataset_path in FILE_FORMATS else str(path / file)
                yield from file_problems(f"{parameter}.dataset_kwargs.data_files", place)


def file_problems(parameter: str, location: str, or_directory: bool = False) -> Iterator[str]:
    """Yield why a file could not be opened; nothing of one that is not on this machine."""
    if "://" in location:
        return
    path = Path(location).expanduser()
    if or_directory and path.is_dir():
        return
    if not path.is_file():
        yield f"parameter {parameter}: there is no file {path}"
        return
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        yield f"parameter {parameter}: {path} cannot be opened ({error})"
