"""The plan of a run as a table for a terminal of 80 columns."""

from collections.abc import Iterator, Mapping, Sequence

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from rao_kedro.planning import assumed, machine, models
from rao_kedro.planning.size import Size, bytes_on_disk, size_of
from rao_kedro.planning.steps import Run, Step, steps_of

UNKNOWN, ASSUMED, AT_LEAST = "?", "~", ">"
WIDTH = 80
_WIDTHS = {"node": 27, "now": 5, "rows": 7, "tokens": 7, "steps": 6, "memory": 7, "disk": 7, "time": 7}
_TRAINS = ("rows", "tokens", "steps", "memory", "disk", "time")
# The columns of a step, by its function; other steps show only the time that they took the last time.
_HAS = {
    "prepare_base_model": ("disk", "time"),
    "collect_preferences": ("rows", "tokens", "time"),
    "collect_conversations": ("rows", "time"),
    "tokenize_turns": ("time",),
    "train_sft": _TRAINS,
    "train_reward_model": _TRAINS,
    "align": _TRAINS,
    "align_with_ppo": _TRAINS,
    "annotate_responses": ("rows", "tokens", "memory", "time"),
    "sample_responses": ("rows", "tokens", "time"),
    "annotate_samples": ("rows", "time"),
    "score_reference": ("rows", "tokens", "memory", "time"),
    "sample_reference": ("rows", "tokens", "time"),
    "reward_reference": ("rows", "memory", "time"),
    "generate_responses": ("rows", "tokens", "time"),
    "generate_with_benchmarks": ("rows", "tokens", "time"),
    "score_responses": ("time",),
    "judge_methods": ("time",),
    "train_run": _TRAINS,
    "measure_trained": _TRAINS,
    "measure_implicit": _TRAINS,
    "measure_reward": ("time",),
    "tokenize": ("time",),
}


def plan_table(pipeline: Pipeline, catalog: CatalogProtocol, stale: Mapping[str, Sequence[str]]) -> str:
    """Return a table of the nodes of a run in their order, with the known size of each.

    Args:
        pipeline: The nodes that will run.
        catalog: Where their inputs and outputs are.
        stale: Names of the nodes whose outputs are missing or stale.
    """
    run = steps_of(pipeline, catalog, kept={node.name for node in pipeline.nodes} - {*stale})
    sizes = {step.name: size_of(run, step, machine.launch_of_step(run, step)) for step in run.steps}
    rows = [[step.name, _state(step, catalog, stale), *_cells(step, sizes[step.name])] for step in run.steps]
    lines = [_line([*_WIDTHS]), *map(_line, rows), "", *_totals(run, sizes)]
    return "\n".join([*lines, *_notes(run, rows), *_assumptions(run, rows)])


def _state(step: Step, catalog: CatalogProtocol, stale: Mapping[str, Sequence[str]]) -> str:
    if not all(map(catalog.exists, step.outputs)):
        return "new"
    return "stale" if step.name in stale else "fresh"


def _cells(step: Step, size: Size) -> list[str]:
    shown = {
        "rows": _number(size.rows),
        "tokens": _number(size.tokens),
        "steps": _number(size.steps),
        "memory": None if size.memory is None else machine.size(size.memory),
        "disk": None if size.disk is None else machine.size(size.disk),
        "time": None if size.seconds is None else duration(size.seconds),
    }
    has = set(_HAS.get(step.function, ())) - ({"tokens"} if step.given.get("source") == "preferences" else set())
    fields = {"time": "seconds"}
    values = size._asdict()
    marks = {name: ASSUMED if (of := fields.get(name, name)) in size.assumed and values[of] else "" for name in shown}
    if size.at_least and size.seconds is not None:
        marks["time"] = AT_LEAST
    return [f"{marks[name]}{text}" if text else UNKNOWN if name in has else "" for name, text in shown.items()]


def _line(cells: Sequence[str]) -> str:
    (name, first), *others = zip(cells, _WIDTHS.values(), strict=True)
    name = name if len(name) <= first else f"{name[: first - 3]}..."
    return " ".join([name.ljust(first), *(cell.rjust(width) for cell, width in others)]).rstrip()


def _totals(run: Run, sizes: Mapping[str, Size]) -> Iterator[str]:
    seconds = [size.seconds for size in sizes.values() if size.seconds is not None]
    took = f", {duration(sum(seconds))} for those whose time is known" if seconds else ""
    yield f"{len(run.steps)} node{'s'[: len(run.steps) != 1]}{took}"
    memory = max((size.memory for size in sizes.values() if size.memory is not None), default=None)
    if memory is not None:
        launches = [machine.launch_of_step(run, step) for step in run.steps]
        on_gpus = any(launch is not None and not launch.on_cpu for launch in launches)
        there = machine.gpu_memory() if on_gpus else machine.main_memory()
        of = f"; {'the smallest' if on_gpus else 'this machine'} has {machine.size(there)}" if there is not None else ""
        where = "on a GPU" if on_gpus else "in a process"
        yield f"memory at most {machine.size(memory)} {where}, activations left out{of}"
    place = run.place("base_model")
    if place is not None and models.facts(run) is not None:
        written, free = bytes_on_disk(run), machine.free_bytes(place)
        yield f"disk at least {machine.size(written)} more for models and checkpoints; {machine.size(free)} are free"


def _notes(run: Run, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    columns = [*_WIDTHS]
    unknown = {columns[i] for row in rows for i, cell in enumerate(row) if cell == UNKNOWN}
    makers = {
        ("tokenized_groups", "tokenized_conversations"): {"rows", "tokens", "steps"},
        ("base_model",): {"memory", "disk"},
    }
    for datasets, of_datasets in makers.items():
        if unknown & of_datasets:
            names = ", ".join(name for name in columns if name in unknown & of_datasets)
            made_by = [s.name for s in run.steps if {o.split("@")[0] for o in s.outputs} & {*datasets}]
            have = "have" if len(made_by) > 1 else "has"
            yield f"{UNKNOWN} {names}: not known before {' and '.join(made_by) or 'it'} {have} run"
    if "time" in unknown:
        yield f"{UNKNOWN} time: known from the second run on"


def _assumptions(run: Run, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield what the marks of assumed values mean, and where these values are from."""
    marks = {cell[:1] for row in rows for cell in row}
    if AT_LEAST in marks:
        yield f"{AT_LEAST} time: of the updates alone; rollouts and their rewards are not counted"
    if ASSUMED in marks:
        yield f"{ASSUMED} from figures that the parameter planning declares, not measured here:"
        yield from assumed.sources(run, WIDTH)


def _number(value: int | None) -> str | None:
    if value is None:
        return None
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**5, "k")):
        if value >= unit:
            scale = 1000 if name == "k" else unit
            return f"{value / scale:.0f} {name}" if value >= 100 * scale else f"{value / scale:.1f} {name}"
    return f"{value:,}"


def duration(seconds: float) -> str:
    """Return a time with a unit: 3 min."""
    if seconds < 1:
        return "< 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
