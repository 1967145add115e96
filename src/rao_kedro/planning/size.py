"""The size of a step before it runs: rows, tokens, optimizer steps, memory, disk and time, as far as they are known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow.parquet as pq

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import ConversationFiles, PreferenceFiles, RowSource, SampledResponses
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.training import ADAM_BYTES, BF16_BYTES, WEIGHT_BYTES, TrainingParameters
from rao_kedro.datasets.freshness import RECORDS
from rao_kedro.planning import assumed, lengths, machine, models
from rao_kedro.planning.steps import Run, Step

COUNTED = 2**30  # bytes; lines of larger files are not counted
_MODEL_MAKERS = ("prepare_base_model", "train_sft", "train_reward_model", "align", "align_with_ppo")
_PLAIN_LINES = (".jsonl",)


class Size(NamedTuple):
    """The size of a step; a field is None where it is not known yet or does not apply.

    Attributes:
        rows: Groups, responses or prompts.
        tokens: Tokens that are read in all epochs together, or the most that can be generated.
        steps: Optimizer steps.
        memory: Bytes of weights, gradients and optimizer state in each process, without activations.
        disk: Bytes of the models that stay and of the checkpoints that exist at the same time.
        seconds: Time at the speed of the last run, or else the time that the last run took, or else the time that the
            parameter `planning` implies.
        assumed: The fields above that rest on figures of `planning`.
        at_least: Whether the step does something else that the time leaves out.
    """

    rows: int | None = None
    tokens: int | None = None
    steps: int | None = None
    memory: int | None = None
    disk: int | None = None
    seconds: float | None = None
    assumed: frozenset[str] = frozenset()
    at_least: bool = False


class Groups(NamedTuple):
    """The groups that a step reads.

    Attributes:
        groups: Their lengths.
        assumed: Whether these are the mean lengths of `planning.groups`, since the groups are not there yet.
    """

    groups: list[lengths.Group]
    assumed: bool

    def fields(self, *names: str) -> frozenset[str]:
        """Return the names of fields of `Size` that count these groups, if they are assumed."""
        return frozenset(names if self.assumed else ())


def size_of(run: Run, step: Step, launch: machine.Launch | None) -> Size:
    """Return the size of a step."""
    found = _size(run, step, launch)
    measured = None if _is_measured(found) else _seconds_last_time(run, step)
    if measured is not None:
        found = found._replace(seconds=measured, assumed=found.assumed - {"seconds"}, at_least=False)
    known = models.facts(run)
    return found if known is None or not known.assumed else found._replace(assumed=found.assumed | {"memory", "disk"})


def _is_measured(size: Size) -> bool:
    return size.seconds is not None and "seconds" not in size.assumed


def _size(run: Run, step: Step, launch: machine.Launch | None) -> Size:
    given = step.given
    match step.function:
        case "prepare_base_model":
            known = models.facts(run)
            copied = given["model"].source != "checkpoint"  # a checkpoint is linked
            return Size(disk=None if known is None else WEIGHT_BYTES * known.weights * copied)
        case "collect_preferences":
            if given["source"] == "preferences":
                rows, sizes = rows_of(given["preferences"]), run.planning().groups
                if rows is None and sizes is not None:
                    return Size(rows=sizes.train + sizes.held_out, assumed=frozenset({"rows"}))
                return Size(rows=rows)
            return _of_sampling(given["sampled"])
        case "collect_conversations":
            rows, of = rows_of(given["conversations"]), run.planning().conversations
            if rows is None and of is not None:
                return Size(rows=of.train + of.held_out, assumed=frozenset({"rows"}))
            return Size(rows=rows)
        case "train_sft":
            return _of_training(run, step, given["training"], 1, launch)
        case "train_reward_model" | "measure_trained":
            return _of_training(run, step, given["training"], None, launch)
        case "measure_implicit":
            return _of_training(run, step, given["dpo"].training, lengths.responses_read(given["dpo"]), launch)
        case "align" | "align_with_ppo" | "train_run":
            method: MethodParameters = given["method"]
            return _of_training(run, step, method.training, lengths.responses_read(method), launch, method)
        case "annotate_responses":
            of_model = given["reward"].name == "bradley_terry"
            return _of_scoring(run, step, launch, given["mixed_precision"] if of_model else None, responses=True)
        case "sample_responses" | "annotate_samples":
            return _of_round(run, given["rounds"])
        case "sample_reference":
            sampled = _reference_samples(run, step)
            tokens = None if sampled.rows is None else sampled.rows * given["generation"].sampling.max_tokens
            return sampled._replace(tokens=tokens)
        case "reward_reference":
            known, of_model = models.facts(run), given["reward"].name == "bradley_terry"
            memory = machine.scoring_bytes(given["mixed_precision"], known.weights) if known and of_model else None
            return _reference_samples(run, step)._replace(memory=memory)
        case "score_reference":
            return _of_scoring(run, step, launch, given["parameters"].mixed_precision)
        case "generate_responses" | "generate_with_benchmarks":
            prompts, sampling = _evaluation_prompts(run), given["generation"].sampling
            if prompts is None:
                return Size()
            rows = prompts.rows * sampling.n if prompts.rows is not None else None
            tokens = None if rows is None else rows * sampling.max_tokens
            return Size(rows=rows, tokens=tokens, assumed=prompts.assumed)
    return Size()


def _of_scoring(
    run: Run, step: Step, launch: machine.Launch | None, precision: str | None, responses: bool = False
) -> Size:
    """Return the size of passes without gradients, by a model of the policy's size if there is a precision."""
    read, known = _groups(run, step), models.facts(run)
    memory = None if known is None or precision is None else machine.scoring_bytes(precision, known.weights)
    if read is None:
        return Size(memory=memory)
    rows = sum(len(group.responses) for group in read.groups) if responses else len(read.groups)
    tokens = sum(group.tokens(None) for group in read.groups)
    seconds = None
    if known is not None and precision is not None:
        seconds = assumed.scoring_seconds(run, known.weights, tokens, launch)
    fields = read.fields("rows", "tokens") | {"seconds"}
    return Size(rows=rows, tokens=tokens, memory=memory, seconds=seconds, assumed=fields)


def _reference_samples(run: Run, step: Step) -> Size:
    """Return the number of responses of the reference to the prompts of training and validation groups."""
    read = _groups(run, step)
    if read is None:
        return Size()
    prompts = sum(group.split != "test" for group in read.groups)
    n = run.parameter("reference_rewards").generation.sampling.n
    return Size(rows=prompts * n, assumed=read.fields("rows", "tokens"))


def _of_sampling(sampled: SampledResponses) -> Size:
    prompts, sampling = sampled.train_prompts + sampled.validation_prompts + sampled.test_prompts, sampled.generation
    rows = prompts * sampling.sampling.n
    return Size(rows=rows, tokens=rows * sampling.sampling.max_tokens)


def _of_round(run: Run, rounds: RoundsParameters) -> Size:
    prompts = _prompts_of_round(run, rounds)
    if prompts is None:
        return Size()
    rows = (prompts - int(prompts * rounds.offline_share)) * rounds.samples_per_prompt
    return Size(rows=rows, tokens=rows * rounds.sampling.max_tokens)


def _prompts_of_round(run: Run, rounds: RoundsParameters) -> int | None:
    """Return how many prompts a round takes; None where all are taken, and nobody has counted them yet."""
    table = run.path("reward_annotated@path")
    if rounds.prompts_per_round is not None or table is None:
        return rounds.prompts_per_round
    return sum(group.split == "train" for group in lengths.read_groups(table))


def _evaluation_prompts(run: Run) -> Size | None:
    """Return the number of held-out prompts; with preference data it is known once they are tokenised."""
    if (table := run.path("evaluation_prompts@path")) is not None:
        return Size(rows=int(pq.read_metadata(table).num_rows))
    data, groups = run.parameter("data"), assumed.assumed_groups(run)
    if data.source == "sampled":
        return Size(rows=data.evaluation_prompts)
    if groups is None:
        return None
    return Size(rows=sum(group.split == "test" for group in groups), assumed=frozenset({"rows", "tokens"}))


def _groups(run: Run, step: Step) -> Groups | None:
    drawn = step.datasets.get("training_groups")
    path = lengths.table_of(run, step) if drawn is None else run.path(drawn)
    if path is not None:
        return Groups(lengths.read_groups(path), assumed=False)
    if lengths.learns_conversations(step):
        conversations = assumed.assumed_conversations(run)
        return None if conversations is None else Groups(conversations, assumed=True)
    if step.groups_of_round is not None:
        return None
    of_another_model = step.given.get("start", "sft_model") not in ("sft_model", "base_model")
    found = None if drawn is not None or of_another_model else assumed.assumed_groups(run)
    return None if found is None else Groups(found, assumed=True)


def _of_training(
    run: Run,
    step: Step,
    training: TrainingParameters,
    responses: int | None,
    launch: machine.Launch | None,
    method: MethodParameters | None = None,
) -> Size:
    found, known = _groups(run, step), models.facts(run)
    rollout = method.rollout if method is not None else None
    memory = disk = None
    if known is not None:
        held = machine.ONE_MODEL if method is None else machine.models_in_memory(method)
        memory = machine.state_bytes(training, known.weights, launch, held)
    if found is None:
        if known is not None:
            disk = published_bytes(training, known.weights) * _models_published(step)
        rows = None if step.rounds is None else _prompts_of_round(run, step.rounds)
        steps = None if rows is None else -(-rows // training.batch_size) * training.epochs
        return Size(rows=rows, steps=steps, memory=memory, disk=disk)
    read = [group for group in found.groups if group.split == "train"]
    epochs = training.epochs * (rollout.ppo_epochs if rollout is not None else 1)
    rows, steps = len(read), -(-len(read) // training.batch_size) * epochs
    prompts = epochs * sum(group.prompt for group in read)
    if rollout is None:
        tokens = epochs * sum(group.tokens(responses) for group in read)
    else:
        tokens = prompts + epochs * rows * rollout.samples_per_prompt * rollout.max_new_tokens
    fields, speed = found.fields("rows", "tokens", "steps", "seconds"), _speed(run, step)
    seconds = None if speed is None else tokens / speed
    if known is not None:
        disk = published_bytes(training, known.weights) * _models_published(step)
        disk += checkpoint_bytes(training, known.weights, steps)
        if seconds is None:
            seconds = assumed.training_seconds(run, training, method, known.weights, tokens, prompts, launch)
            fields |= {"seconds"}
    at_least = rollout is not None and speed is None
    return Size(rows, tokens, steps, memory, disk, seconds, fields, at_least)


def _models_published(step: Step) -> int:
    return 2 if step.function == "align_with_ppo" else 1  # the value network, too


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
            of_step = max(published, default=WEIGHT_BYTES * known.weights) * _models_published(step)
            made += 0 if there or linked else of_step
        for training, responses in _trainings(step):
            size = _of_training(run, step, training, responses, None)
            checkpoints.append(checkpoint_bytes(training, known.weights, size.steps))
    return made + max(checkpoints)


def _trainings(step: Step) -> Iterator[tuple[TrainingParameters, int | None]]:
    if step.function in ("train_sft", "train_reward_model", "measure_trained"):
        yield step.given["training"], None
    elif step.function in ("align", "align_with_ppo", "train_run"):
        yield step.given["method"].training, None
    elif step.function == "measure_implicit":
        yield step.given["dpo"].training, None


def rows_of(files: PreferenceFiles | ConversationFiles) -> int | None:
    """Return the rows of data that will be read; None where they cannot be counted quickly."""
    counts = [_rows_of_source(source) for _, source in files if isinstance(source, RowSource)]
    return None if None in counts else sum(count for count in counts if count is not None)


def _rows_of_source(source: RowSource) -> int | None:
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
