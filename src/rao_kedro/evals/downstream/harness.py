"""Runs this project's downstream tasks through lm-evaluation-harness, and returns tables.

The tasks are the files in `tasks`, which the harness's own command runs, too: `lm_eval --include_path <tasks>`.
Knows nothing about how a model generates.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from scipy.stats import binomtest

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.evals.downstream.choice_answers import LETTERS
from rao_kedro.schemas.benchmarks import DOWNSTREAM, TaskSource

TASK_FILES = Path(__file__).parent / "tasks"
PREFIX = "rao_"  # of the tasks' names among the harness's own
SCORE_COLUMNS = ["task", "metric", "value", "stderr", "low", "high", "n", "unparsed", "chance"]
SAMPLE_COLUMNS = ["task", "item_id", "prompt", "output", "extracted", "gold", "correct", "unscored_reason"]


class DownstreamResults(NamedTuple):
    """Scores of tasks, and what they are made of.

    Attributes:
        scores: A row per task and per subject of MMLU (`mmlu::anatomy`). `stderr` is that of a mean, `low` and
            `high` are Wilson's 95 % interval of `value`, `unparsed` counts outputs without an answer, which are wrong,
            and `chance` is the accuracy of guessing.
        samples: A row per item. The output of MMLU is the log-probability of each letter, as JSON. `unscored_reason`
            says why the model gave no output, where it has `unanswered` prompts.
    """

    scores: pd.DataFrame
    samples: pd.DataFrame


def run(
    lm: LM,
    tasks: Sequence[str] | None = None,
    sources: Mapping[str, TaskSource] | None = None,
    limit: int | None = None,
) -> DownstreamResults:
    """Measure a model.

    Prompts are plain text: an `LM` of a chat model puts them into its template in `generate_until`, and not in
    `loglikelihood`, as published numbers of MMLU have it.

    Args:
        lm: The model. Its `generate_until` gets `until` (empty), `do_sample`, `temperature` and `max_gen_toks`.
        tasks: Some of `DOWNSTREAM`; all if not set.
        sources: Where a task's rows are, where it is not the usual dataset of the hub.
        limit: Items of each task and of each subject of MMLU; all if not set.

    Returns:
        The tables.

    Raises:
        DataError: A task's rows cannot be read.
        InferenceError: A log-probability is not a number.
        ParameterError: A task is unknown.
    """
    tasks = list(dict.fromkeys(DOWNSTREAM if tasks is None else tasks))
    sources = sources or {}
    if unknown := [task for task in [*tasks, *sources] if task not in DOWNSTREAM]:
        raise ParameterError(f"unknown downstream task {unknown[0]!r}: choose one of {', '.join(DOWNSTREAM)}")
    if not tasks or (limit is not None and limit < 1):
        raise ParameterError(f"{len(tasks)} tasks with at most {limit} items are nothing to measure")
    # Plain values: the harness copies the metadata of a task into its records.
    metadata = {"sources": {task: source.model_dump() for task, source in sources.items()}}
    with _quietly():
        manager = TaskManager(include_path=TASK_FILES, include_defaults=False, metadata=metadata)
        # `simple_evaluate` would also seed every random generator and describe the machine.
        results: Any = evaluate(
            lm, manager.load([PREFIX + task for task in tasks]), limit=limit, bootstrap_iters=0, log_samples=True
        )
    found = pd.DataFrame(
        [
            _sample(name.removeprefix(PREFIX), sample, getattr(lm, "unanswered", {}))
            for name, part in results["samples"].items()
            for sample in part
        ],
        columns=[*SAMPLE_COLUMNS, "chance"],
    )
    whole = found["task"].str.partition("::")[0]
    rows = [_score(task, found[whole == task]) for task in tasks]
    rows += [_score(str(subject), part) for subject, part in found[found["task"] != whole].groupby("task")]
    return DownstreamResults(pd.DataFrame(rows, columns=SCORE_COLUMNS), found[SAMPLE_COLUMNS])


def _sample(task: str, sample: Mapping[str, Any], unanswered: Mapping[str, str]) -> tuple[object, ...]:
    doc, prompt = sample["doc"], sample["arguments"][0][0]
    if doc["subject"]:
        # A response is the log-probability of a letter, and whether greedy decoding gives it.
        logps = [float(response[0]) for [response] in sample["resps"]]
        if any(map(math.isnan, logps)):
            raise InferenceError(f"{task}, item {doc['item_id']}: the model's log-probabilities are {logps}")
        output, extracted = json.dumps(dict(zip(LETTERS, logps, strict=False))), LETTERS[int(np.argmax(logps))]
    else:
        [[output]] = sample["resps"]
        [extracted] = sample["filtered_resps"]
    chance = 1 / len(doc["choices"]) if doc["choices"] else 0.0
    why = unanswered.get(prompt, "")
    return task, doc["item_id"], prompt, output, extracted, doc["gold"], bool(sample["acc"]), why, chance


def _score(task: str, samples: pd.DataFrame) -> tuple[object, ...]:
    n, right = len(samples), int(samples["correct"].sum())
    value = right / n
    stderr = math.sqrt(value * (1 - value) / (n - 1)) if n > 1 else math.nan
    interval = binomtest(right, n).proportion_ci(method="wilson")
    unparsed = int(samples["extracted"].isna().sum())
    return task, "accuracy", value, stderr, interval.low, interval.high, n, unparsed, float(samples["chance"].mean())


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back the harness's advice on how to pass metadata, once per subject."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
