"""The size of a step before it runs: rows, tokens, optimizer steps, memory, disk and time, as far as they are known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import PreferenceFiles, PreferenceSource, SampledResponses
from rao_kedro.config.training import ADAM_BYTES, BF16_BYTES, WEIGHT_BYTES, TrainingParameters
from rao_kedro.datasets.freshness import RECORDS
from rao_kedro.planning import lengths, machine, models
from rao_kedro.planning.steps import Run, Step

COUNTED = 2**30  # bytes; lines of larger files are not counted
_MODEL_MAKERS = ("prepare_base_model", "train_sft", "train_reward_model", "align")
_PLAIN_LINES = (".jsonl",)


class Size(NamedTuple):
    """The size of a step; a field is None where it is not known yet or does not apply.

    Attributes:
        rows: Groups, responses or prompts.
        tokens: Tokens that are read in all epochs together, or the most that can be generated.
        steps: Optimizer steps.
        memory: Bytes of weights, gradients and optimizer state in each process, without activations.
        disk: Bytes of the models that stay and of the checkpoints that exist at the same time.
        seconds: Time at the speed of the last run, or else the time that the last run took.
    """

    rows: int | None = None
    tokens: int | None = None
    steps: int | None = None
    memory: int | None = None
    disk: int | None = None
    seconds: float | None = None


def size_of(run: Run, step: Step, launch: machine.Launch | None) -> Size:
    """Return the size of a step."""
    found = _size(run, step, launch)
    return found if found.seconds is not None else found._replace(seconds=_seconds_last_time(run, step))


def _size(run: Run, step: Step, launch: machine.Launch | None) -> Size:
    given = step.given
    match step.function:
        case "prepare_base_model":
            known = models.facts(run)
            copied = given["model"].source != "checkpoint"  # a checkpoint is linked
            return Size(disk=None if known is None else WEIGHT_BYTES * known.weights * copied)
        case "collect_preferences":
            if given["source"] == "preferences":
                return Size(rows=rows_of(given["preferences"]))
            return _of_sampling(given["sampled"])
        case "train_sft":
            return _of_training(run, step, given["training"], 1, launch)
        case "train_reward_model" | "measure_trained":
            return _of_training(run, step, given["training"], None, launch)
        case "measure_implicit":
            return _of_training(run, step, given["dpo"].training, lengths.responses_read(given["dpo"]), launch)
        case "align" | "train_run":
            method: MethodParameters = given["method"]
            return _of_training(run, step, method.training, lengths.responses_read(method), launch, method)
        case "annotate_responses":
            groups = _groups(run, step)
            return Size(rows=None if groups is None else sum(len(group.responses) for group in groups))
        case "score_reference":
            groups = _groups(run, step)
            known_tokens = None if groups is None else sum(group.tokens(None) for group in groups)
            return Size(rows=None if groups is None else len(groups), tokens=known_tokens)
        case "generate_responses" | "generate_with_benchmarks":
            prompts, sampling = _evaluation_prompts(run), given["generation"].sampling
            rows = None if prompts is None else prompts * sampling.n
            return Size(rows=rows, tokens=None if rows is None else rows * sampling.max_tokens)
    return Size()


def _of_sampling(sampled: SampledResponses) -> Size:
    prompts, sampling = sampled.train_prompts + sampled.validation_prompts + sampled.test_prompts, sampled.generation
    rows = prompts * sampling.sampling.n
    return Size(rows=rows, tokens=rows * sampling.sampling.max_tokens)


def _evaluation_prompts(run: Run) -> int | None:
    """Return the number of held-out prompts; with preference data it is known once they are tokenised."""
    if (table := run.path("evaluation_prompts@path")) is not None:
        return int(pq.read_metadata(table).num_rows)
    data = run.parameter("data")
    return data.evaluation_prompts if data.source == "sampled" else None


def _groups(run: Run, step: Step) -> list[lengths.Group] | None:
    drawn = step.datasets.get("training_groups")
    path = lengths.table_of(run, step) if drawn is None else run.path(drawn)
    return None if path is None else lengths.read_groups(path)


def _of_training(
    run: Run,
    step: Step,
    training: TrainingParameters,
    responses: int | None,
    launch: machine.Launch | None,
    method: MethodParameters | None = None,
) -> Size:
    groups, known = _groups(run, step), models.facts(run)
    read = None if groups is None else [group for group in groups if group.split == "train"]
    rollout = method.rollout if method is not None else None
    passes = rollout.ppo_epochs if rollout is not None else 1
    rows = steps = tokens = memory = disk = None
    if read is not None:
        rows, steps = len(read), -(-len(read) // training.batch_size) * training.epochs * passes
        tokens = training.epochs * passes * sum(group.tokens(responses) for group in read)
        if rollout is not None:
            tokens = (
                training.epochs
                * passes
                * sum(group.prompt + rollout.samples_per_prompt * rollout.max_new_tokens for group in read)
            )
    if known is not None:
        models_trained = 2 if method is not None and method.requirements.value_network else 1
        memory = machine.state_bytes(training, known.weights, launch, models_trained)
        disk = published_bytes(training, known.weights) + checkpoint_bytes(training, known.weights, steps)
    speed = _speed(run, step)
    return Size(rows, tokens, steps, memory, disk, None if tokens is None or speed is None else tokens / speed)


def published_bytes(training: TrainingParameters, weights: int) -> int:
    """Return the bytes of a published model with that number of weights."""
    return weights * (BF16_BYTES if training.publishes_bf16 else WEIGHT_BYTES)


def checkpoint_bytes(training: TrainingParameters, weights: int, steps: int | None) -> int:
    """Return the bytes of the checkpoints that exist at the same time: one more than are kept, while it is written.

    Args:
        training: Parameters of the loop.
        weights: Number of weights of the model.
        steps: Optimizer steps; None where they are not known yet: then there may be no checkpoint.
    """
    if training.checkpoint_every == 0 or training.lora is not None or steps is None:
        return 0
    written = min(steps // training.checkpoint_every, training.checkpoints_kept + 1)
    adam = ADAM_BYTES // 4 if training.optimizer == "adamw_8bit" else ADAM_BYTES
    return written * weights * (WEIGHT_BYTES + adam)


def bytes_on_disk(run: Run) -> int:
    """Return the least bytes that a run adds to the disk: new models, and the checkpoints of the largest training."""
    known = models.facts(run)
    if known is None:
        return 0
    made, checkpoints = 0, [0]
    for step in run.steps:
        if step.function in _MODEL_MAKERS:
            place = run.place(step.outputs[0])
            there = place is not None and (place / "config.json").exists()  # the new one replaces it
            linked = step.function == "prepare_base_model" and step.given["model"].source == "checkpoint"
            published = [published_bytes(training, known.weights) for training, _ in _trainings(step)]
            made += 0 if there or linked else max(published, default=WEIGHT_BYTES * known.weights)
        for training, responses in _trainings(step):
            size = _of_training(run, step, training, responses, None)
            checkpoints.append(checkpoint_bytes(training, known.weights, size.steps))
    return made + max(checkpoints)


def _trainings(step: Step) -> Iterator[tuple[TrainingParameters, int | None]]:
    if step.function in ("train_sft", "train_reward_model", "measure_trained"):
        yield step.given["training"], None
    elif step.function in ("align", "train_run"):
        yield step.given["method"].training, None
    elif step.function == "measure_implicit":
        yield step.given["dpo"].training, None


def rows_of(preferences: PreferenceFiles) -> int | None:
    """Return the rows of preference data that will be read; None where they cannot be counted quickly."""
    counts = [_rows_of_source(source) for _, source in preferences if source is not None]
    return None if None in counts else sum(count for count in counts if count is not None)


def _rows_of_source(source: PreferenceSource) -> int | None:
    path = Path(str(source.path)).expanduser() if source.path is not None else None
    there = _rows_of_file(path) if path is not None and path.is_file() else None
    if there is None:
        return source.max_rows
    left = max(0, there - source.skip_rows)
    return left if source.max_rows is None else min(left, source.max_rows)


def _rows_of_file(path: Path) -> int | None:
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    if path.suffix in _PLAIN_LINES and path.stat().st_size < COUNTED:
        with path.open("rb") as file:
            return sum(bool(line.strip()) for line in file)
    return None


def _speed(run: Run, step: Step) -> float | None:
    """Return the useful tokens per second of the last run of a training, from its log."""
    log = next((run.place(output) for output in step.outputs if "training_log" in output), None)
    if log is None or not log.exists():
        return None
    found = pd.read_csv(log)
    speeds = found["useful_tokens_per_second"].dropna() if "useful_tokens_per_second" in found else found.iloc[:0, 0]
    return float(speeds.median()) if len(speeds) else None


def _seconds_last_time(run: Run, step: Step) -> float | None:
    """Return the seconds that a step took the last time, from the record of its artefacts."""
    for output in step.outputs:
        place = run.place(output)
        record = None if place is None else place.parent / RECORDS / f"{place.name}.json"
        if record is not None and record.exists():
            seconds = json.loads(record.read_text()).get("seconds")
            return None if seconds is None else float(seconds)
    return None
