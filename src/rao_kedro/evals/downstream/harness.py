"""Runs this project's downstream tasks through lm-evaluation-harness, and returns tables.

The tasks are the files in `tasks`, which the harness's own command can also run: `lm_eval --include_path <tasks>`.
Knows nothing about how a model generates. `named_tasks` runs the tasks that belong to the harness.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.evals.downstream.answers import INVALID
from rao_kedro.evals.downstream.choice_answers import LETTERS
from rao_kedro.evals.downstream.parameters import ChainOfThoughtParameters, TaskSource
from rao_kedro.evals.downstream.registry import TASKS
from rao_kedro.evals.downstream.results import (
    SAMPLE_COLUMNS,
    DownstreamResults,
    Score,
    share_cut,
    spread_of_mean,
    tables,
)
from rao_kedro.evals.responses import Response

TASK_FILES = Path(__file__).parent / "tasks"
PREFIX = "rao_"  # sets the names of these tasks apart from the harness's
OURS = "accuracy"  # metric of this project's extraction
FILTERS = {"answer": OURS, "none": OURS}  # other filters become metrics with their own names


def run(
    lm: LM,
    tasks: Sequence[str] | None = None,
    sources: Mapping[str, TaskSource] | None = None,
    limit: int | None = None,
    chain_of_thought: ChainOfThoughtParameters | None = None,
) -> DownstreamResults:
    """Measure a model.

    Prompts are plain text. The `LM` of a chat model puts them into its template in `generate_until`, but not in
    `loglikelihood`, as in published results on MMLU.

    Args:
        lm: The model. Its `generate_until` gets `until` (empty), `do_sample`, `temperature` and `max_gen_toks`.
        tasks: Names in `TASKS`; None for all.
        sources: Sources of the tasks whose rows do not come from the usual dataset on the hub.
        limit: Maximum number of items of each task and of each subject of MMLU; None for all.
        chain_of_thought: The token limit of a response.

    Returns:
        The tables: rows per task and per subject of MMLU (`mmlu::anatomy`). GSM8K has the harness's strict and flexible
        extraction beside `accuracy`, which is this project's. The output of MMLU is the log-prob of each letter.

    Raises:
        DataError: A task's rows cannot be read.
        GenerationError: A log-prob is NaN.
        ParameterError: A task is unknown.
    """
    tasks = list(dict.fromkeys(TASKS if tasks is None else tasks))
    sources = sources or {}
    if unknown := [task for task in [*tasks, *sources] if task not in TASKS]:
        raise ParameterError(f"unknown downstream task {unknown[0]!r}: choose one of {', '.join(TASKS)}")
    if not tasks or (limit is not None and limit < 1):
        raise ParameterError(f"there is nothing to measure: {len(tasks)} tasks with at most {limit} items")
    # Plain values: the harness copies the metadata of a task into its records.
    metadata = {"sources": {task: source.model_dump() for task, source in sources.items()}}
    max_tokens = (chain_of_thought or ChainOfThoughtParameters()).max_tokens
    with quiet_harness():
        manager = TaskManager(include_path=TASK_FILES, include_defaults=False, metadata=metadata)
        loaded = manager.load([PREFIX + task for task in tasks])
        for task in loaded["tasks"].values():
            if task.OUTPUT_TYPE == "generate_until":
                task.set_config(key="generation_kwargs", value={"max_gen_toks": max_tokens}, update=True)
        # `simple_evaluate` would also seed every random generator and describe the machine.
        results: Any = evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    found = pd.DataFrame(
        [_sample(name.removeprefix(PREFIX), sample) for name, part in results["samples"].items() for sample in part],
        columns=[*SAMPLE_COLUMNS, "chance"],
    )
    whole = found["task"].str.partition("::")[0]
    parts = [(task, found[whole == task]) for task in tasks]
    parts += [(str(subject), part) for subject, part in found[found["task"] != whole].groupby("task")]
    scores = [
        _score(task, str(metric), of_metric, results)
        for task, part in parts
        for metric, of_metric in part.groupby("metric", sort=False)
    ]
    return tables(scores, found)


def written(response: str) -> Response | None:
    """Return the whole response from which a task read a part; None if the model does not provide it."""
    return getattr(response, "response", None)


def _sample(task: str, sample: Mapping[str, Any]) -> tuple[object, ...]:
    doc, prompt = sample["doc"], sample["arguments"][0][0]
    reason: str | None = None
    response: Response | None = None
    extracted: str | None
    if doc["subject"]:
        # A response is the log-prob of a letter, and whether greedy decoding produces it.
        logps = [float(response[0]) for [response] in sample["resps"]]
        if any(map(math.isnan, logps)):
            raise GenerationError(f"{task}, item {doc['item_id']}: the model's log-probabilities are {logps}")
        output, extracted = json.dumps(dict(zip(LETTERS, logps, strict=False))), LETTERS[int(np.argmax(logps))]
    else:
        [[output]] = sample["resps"]
        if (response := written(output)) is not None:
            output, reason = response.text, response.finish_reason
        [extracted] = sample["filtered_resps"]
        extracted = None if extracted == INVALID else extracted
    chance = 1 / len(doc["choices"]) if doc["choices"] else 0.0
    metric, right = FILTERS.get(sample["filter"], sample["filter"]), float(sample["acc"])
    about = task, metric, doc["item_id"], prompt, output, reason, extracted, doc["gold"], right, bool(right)
    return *about, response.unscored_reason if response else "", chance


def _score(task: str, metric: str, samples: pd.DataFrame, results: Mapping[str, Any]) -> Score:
    name, values = PREFIX + task, list(samples["value"])
    return Score(
        task,
        metric,
        float(np.mean(values)),
        True,
        *spread_of_mean(values),
        n=len(values),
        unparsed=int(samples["extracted"].isna().sum()),
        chance=float(samples["chance"].mean()),
        cut=share_cut(samples),
        num_fewshot=float(results["n-shot"][name]),
        version=str(results["versions"][name]),
    )


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Suppress the harness's advice on how to pass metadata, which it logs once per subject."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
