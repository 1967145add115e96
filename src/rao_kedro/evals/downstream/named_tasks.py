"""Tasks of lm-evaluation-harness itself, by name, run as its own command runs them. Knows nothing about models.

Prompts, few-shot examples, extraction, metrics, their names and their aggregation over a group are the harness's.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from datasets.exceptions import DatasetsError
from jinja2 import TemplateError
from lm_eval.api.group import Group
from lm_eval.api.metrics import mean, unweighted_mean_stderr
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory

from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.downstream.answers import INVALID
from rao_kedro.evals.downstream.harness import quiet_harness, written
from rao_kedro.evals.downstream.parameters import HARNESS, HarnessDataset, HarnessParameters
from rao_kedro.evals.downstream.results import (
    SAMPLE_COLUMNS,
    DownstreamResults,
    Score,
    Spread,
    share_cut,
    spread_of,
    spread_of_mean,
    tables,
)

OF_CHOICES = ("acc", "acc_norm", "acc_bytes")  # metrics whose value under guessing is known
Z = 1.959964  # of a 95 % interval


class NamedTasks(NamedTuple):
    """Tasks with their rows, ready to run.

    Attributes:
        tasks: Tasks by their own names.
        groups: Groups by their own names, including groups inside groups.
        shown: The name in tables of each task and group, such as `lm_eval/mmlu::mmlu_anatomy`.
        how: Few-shot examples and chat template.
    """

    tasks: dict[str, Task]
    groups: dict[str, Group]
    shown: dict[str, str]
    how: HarnessParameters


def load_tasks(how: HarnessParameters, generating_only: bool = False) -> NamedTasks:
    """Return the named tasks with their rows. No model is needed.

    Args:
        how: Names of the tasks, and sources of their rows.
        generating_only: Whether the model returns no log-probs of given text; tasks that need them are then refused.

    Raises:
        ParameterError: A task is unknown, is named twice, needs a package that is not installed, log-probs, pictures or
            sound, or runs code that the model writes.
        DataError: The rows of a task cannot be loaded.
    """
    tasks: dict[str, Task] = {}
    groups: dict[str, Group] = {}
    shown: dict[str, str] = {}
    names = list(dict.fromkeys(how.tasks))
    with quiet_harness():
        manager = TaskManager() if names else None
        for name in names:
            loaded = _load(manager, name, how.datasets.get(name))
            if twice := sorted({*loaded["tasks"]} & {*tasks}):
                raise ParameterError(
                    f"harness.tasks: {twice[0]} is part of {name} and of an earlier name: leave out one of them"
                )
            tasks |= loaded["tasks"]
            groups |= loaded["groups"]
            parts = {*loaded["tasks"], *loaded["groups"]}
            inside = f"{HARNESS}{name}::" if name in loaded["groups"] else HARNESS
            shown |= {part: f"{inside}{part}" if part != name else f"{HARNESS}{name}" for part in parts}
    for name, task in tasks.items():
        _refuse_what_cannot_run(name, task, generating_only)
        if how.num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=how.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return NamedTasks(tasks, groups, shown, how)


def unknown_tasks(names: Sequence[str]) -> list[str]:
    """Return a sentence on each name that the harness does not know; no rows are read."""
    with quiet_harness():
        manager = TaskManager()
    return [_unknown(manager, name) for name in dict.fromkeys(names) if name not in manager.task_index]


def _unknown(manager: TaskManager, name: str) -> str:
    near = get_close_matches(name, manager.all_tasks, n=3)
    hint = f" (did you mean: {', '.join(near)}?)" if near else ", nor one with a similar name"
    return f"harness.tasks: lm-evaluation-harness has no task {name!r}{hint}"


def _load(manager: TaskManager, name: str, dataset: HarnessDataset | None) -> Mapping[str, Any]:
    """Return the result of `TaskManager.load` for one name."""
    entry = manager.task_index.get(name)
    if entry is None:
        raise ParameterError(_unknown(manager, name))
    overrides = None if dataset is None else dataset.overrides
    where = f"evaluation.benchmarks.harness.datasets.{name}"
    if "ifeval" in name:
        _refuse_without_sentences(name)
    try:
        built = TaskFactory().build(entry, overrides=overrides, registry=manager.task_index)
        return manager.load(built if isinstance(built, list) else [built])
    except ImportError as error:
        raise ParameterError(
            f"harness.tasks: {name} needs a package that is not installed ({error}): pip install "
            f"{error.name or 'it'}, or lm_eval's extra for the task where there is one, such as lm_eval[ifeval]"
        ) from error
    except (KeyError, TemplateError) as error:  # a split or a column
        raise DataError(
            f"{name}, a task of lm-evaluation-harness, cannot read its rows ({type(error).__name__}: {error}): name "
            f"data with the splits and columns that it reads in {where}"
        ) from error
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"the rows of {name}, a task of lm-evaluation-harness, cannot be loaded: {type(error).__name__}: "
            f"{str(error)[:500]}. Connect this machine to the hub once, or name a local copy in {where}"
        ) from error


def _refuse_without_sentences(name: str) -> None:
    """Refuse IFEval without NLTK's sentence model, which it would try to download, and need only when it scores."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        if not nltk.download("punkt_tab", quiet=True):
            raise ParameterError(
                f"harness.tasks: {name} needs NLTK's punkt_tab, which is not installed and cannot be downloaded now: "
                "python -m nltk.downloader punkt_tab"
            ) from None


def _refuse_what_cannot_run(name: str, task: Task, generating_only: bool) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ParameterError(f"harness.tasks: {name} runs code that the model writes, which is not supported")
    if getattr(task, "MULTIMODAL", False):
        raise ParameterError(f"harness.tasks: {name} asks about pictures or sound, and only text is supported")
    if generating_only and task.OUTPUT_TYPE != "generate_until":
        raise ParameterError(
            f"harness.tasks: {name} compares log-probs of text, which chat servers do not return: measure the "
            "served_models without it"
        )


def run(lm: LM, named: NamedTasks, limit: int | None = None) -> DownstreamResults:
    """Measure a model.

    Args:
        lm: The model.
        named: The tasks.
        limit: Maximum number of items of each task; None for all.

    Returns:
        The tables: rows per task, group and part of a group, with the harness's own metrics; a filter's name follows
        its metric (`exact_match,strict-match`).
    """
    if not named.tasks:
        return tables([], pd.DataFrame(columns=SAMPLE_COLUMNS))
    with quiet_harness():
        results: Any = evaluate(
            lm,
            {"tasks": named.tasks, "groups": named.groups},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=named.how.apply_chat_template,
            fewshot_as_multiturn=named.how.fewshot_as_multiturn,
        )
    of_tasks = {name: _Task(name, task, results, named.shown[name]) for name, task in named.tasks.items()}
    rows = {name: of_task.scores() for name, of_task in of_tasks.items()}
    rows |= {name: _group_scores(group, named.shown[name], of_tasks, results) for name, group in named.groups.items()}
    order = sorted(rows, key=lambda name: "::" in named.shown[name])  # parts of groups come last
    samples = [row for of_task in of_tasks.values() for row in of_task.samples()]
    return tables([row for name in order for row in rows[name]], pd.DataFrame(samples, columns=SAMPLE_COLUMNS))


class _Task:
    """The harness's results of one task."""

    def __init__(self, name: str, task: Task, results: Mapping[str, Any], shown: str) -> None:
        self.name, self.task, self.results, self.shown = name, task, results, shown
        self.found: list[dict[str, Any]] = results["samples"][name]
        self.table = pd.DataFrame([*self._samples()], columns=SAMPLE_COLUMNS)

    @cached_property
    def metrics(self) -> list[str]:
        """Return the metrics, each with its filter, as the harness calls them: `acc,none`."""
        pairs = dict.fromkeys((metric, of["filter"]) for of in self.found for metric in of["metrics"])
        return [f"{metric},{filter_}" for metric, filter_ in pairs]

    def items(self, key: str) -> list[Any]:
        """Return the value of a metric for each item."""
        metric, _, filter_ = key.partition(",")
        return [of[metric] for of in self.found if of["filter"] == filter_ and metric in of]

    def averages(self, key: str) -> bool:
        """Return whether a metric is the mean of its values for the items."""
        return self.task.aggregation().get(key.partition(",")[0], mean) is mean and all(
            map(_is_number, self.items(key))
        )

    def is_share(self, key: str) -> bool:
        """Return whether a metric is a share of items, or of the parts of items, such as IFEval's instructions."""
        items = self.items(key)
        parts = items if self.averages(key) else chain(*(of if isinstance(of, list) else [None] for of in items))
        better = self.task.higher_is_better().get(key.partition(",")[0], False)
        return bool(better) and all(_is_number(part) and 0 <= part <= 1 for part in parts)

    def spread(self, key: str) -> Spread:
        """Return the standard error and the interval of a metric."""
        items = self.items(key)
        if self.averages(key):
            return spread_of_mean([float(item) for item in items])
        return spread_of(self.task.aggregation()[key.partition(",")[0]], items)

    def chance(self, key: str) -> float:
        """Return the expected value of a metric under guessing; NaN if it is not known."""
        if self.task.OUTPUT_TYPE != "multiple_choice" or key.partition(",")[0] not in OF_CHOICES:
            return math.nan
        return float(np.mean([1 / len(of["resps"]) for of in self.found]))

    def unparsed(self, key: str) -> int:
        """Return the number of outputs in which the harness found no answer."""
        return sum(of["filtered_resps"][0] == INVALID for of in self.found if of["filter"] == key.partition(",")[2])

    def scores(self) -> Iterator[Score]:
        """Yield a row per metric."""
        for key in self.metrics:
            value = float(self.results["results"][self.name][key])
            yield Score(
                self.shown,
                _metric(key),
                value,
                self.is_share(key),
                *self.spread(key),
                n=len(self.items(key)),
                unparsed=self.unparsed(key),
                chance=self.chance(key),
                cut=share_cut(self.table),
                num_fewshot=float(self.results["n-shot"][self.name]),
                version=str(self.results["versions"][self.name]),
            )

    def samples(self) -> list[tuple[object, ...]]:
        """Return a row per item and metric."""
        return [*self.table.itertuples(index=False, name=None)]

    def _samples(self) -> Iterator[tuple[object, ...]]:
        averages = {key: self.averages(key) for key in self.metrics}
        for of in self.found:
            output, reason, extracted, unscored = _read(self.task, of)
            for metric in of["metrics"]:
                key = f"{metric},{of['filter']}"
                value = float(of[metric]) if averages[key] else math.nan
                prompt, gold = str(of["arguments"][0][0]), _text(of["target"])
                about = (self.shown, _metric(key), str(of["doc_id"]), prompt, output, reason, extracted, gold)
                yield *about, value, value == 1, unscored


def _group_scores(group: Group, shown: str, tasks: Mapping[str, _Task], results: Mapping[str, Any]) -> Iterator[Score]:
    """Yield a row per metric that the harness aggregates over a group."""
    parts = [tasks[task.task_name] for task in group.get_all_tasks()]
    found = results["results"].get(group.name, {})
    for how in group.aggregate_metric_list or []:
        for key in [key for key in found if key.partition(",")[0] == how.metric]:
            own = [part for part in parts if key in part.metrics]
            items = [float(item) for part in own if part.averages(key) for item in part.items(key)]
            n, value = sum(len(part.items(key)) for part in own), float(found[key])
            shots = {results["n-shot"][part.name] for part in own}
            if how.weight_by_size and len(items) == n:  # then it is the mean over all items
                spread = spread_of_mean(items)
            else:
                stderr = float(unweighted_mean_stderr([part.spread(key).stderr for part in own]))
                spread = Spread(stderr, value - Z * stderr, value + Z * stderr)
            yield Score(
                shown,
                _metric(key),
                value,
                all(part.is_share(key) for part in own),
                *spread,
                n=n,
                unparsed=sum(part.unparsed(key) for part in own),
                chance=float(np.average([part.chance(key) for part in own], weights=[len(p.items(key)) for p in own])),
                cut=share_cut(pd.concat([part.table for part in own])),
                num_fewshot=float(shots.pop()) if len(shots) == 1 else math.nan,
                version=str(results["versions"][group.name]),
            )


def _metric(key: str) -> str:
    """Return the name of a metric in tables, without the filter `none`."""
    return key.removesuffix(",none")


def _read(task: Task, sample: Mapping[str, Any]) -> tuple[str, str | None, str | None, str]:
    """Return the response or the choices' log-probs, the finish reason, the answer, and why it is unscored."""
    first = sample["resps"][0][0]
    if task.OUTPUT_TYPE == "generate_until":
        read, response = sample["filtered_resps"][0], written(first)
        extracted = None if read == INVALID else _text(read)
        if response is None:
            return str(first), None, extracted, ""
        return response.text, response.finish_reason, extracted, response.unscored_reason
    if isinstance(first, float):
        return json.dumps(first), None, None, ""
    logps = [
        (arguments[-1], float(of[0][0])) for arguments, of in zip(sample["arguments"], sample["resps"], strict=True)
    ]
    return json.dumps(logps), None, None, ""


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.number | np.bool_) and math.isfinite(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
