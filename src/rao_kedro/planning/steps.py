"""The nodes of a run with their parameters and datasets, by the names of their functions' arguments."""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline

from rao_kedro.config.planning import PlanningParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.workers import WorkerParameters

_PARAMETERS = "params:"
_GROUPS_OF_ROUND = re.compile(r".+\.round_\d+\.reward_annotated@path")


@dataclass(frozen=True)
class Step:
    """A node that will run.

    Attributes:
        name: The node's name.
        function: Name of the node's function, which says what the node does.
        given: Values of the parameters, by the function's argument.
        named: Dotted names of the parameters, by the argument.
        datasets: Names of the input datasets, by the argument.
        outputs: Names of the output datasets.
    """

    name: str
    function: str
    given: Mapping[str, Any]
    named: Mapping[str, str]
    datasets: Mapping[str, str]
    outputs: tuple[str, ...]

    @property
    def samples_policy(self) -> bool:
        """Whether the step trains a method that samples from its policy."""
        method = self.given.get("method")
        return method is not None and method.samples_in_training

    @property
    def rounds(self) -> RoundsParameters | None:
        """The rounds of the method that the step trains; None where it trains once."""
        method = self.given.get("method")
        return None if method is None else method.rounds

    @property
    def groups_of_round(self) -> str | None:
        """The dataset of the groups that the step reads or makes for an on-policy round; None outside of rounds."""
        names = (*self.datasets.values(), *self.outputs)
        return next((name for name in names if _GROUPS_OF_ROUND.fullmatch(name)), None)


@dataclass(frozen=True)
class Run:
    """The steps of a run, and the catalog.

    Attributes:
        steps: The steps in the order in which they run.
        catalog: Where the data are.
        kept: Outputs of fresh steps: the run makes them again, but they stay what they are.
    """

    steps: tuple[Step, ...]
    catalog: CatalogProtocol
    kept: frozenset[str] = frozenset()

    def parameter(self, name: str) -> Any:
        """Return a parameter by its dotted name, whichever node reads it."""
        return self.catalog[f"{_PARAMETERS}{name}"].load()

    def workers(self) -> WorkerParameters | None:
        """Return how the workers of the run are started; None where no step starts one."""
        return next((step.given["workers"] for step in self.steps if "workers" in step.given), None)

    def workers_of(self, step: Step) -> WorkerParameters | None:
        """Return how the workers of a step are started; None where no step of the run starts one."""
        workers = step.given.get("workers") or self.workers()
        return workers.for_ppo() if workers is not None and step.samples_policy else workers

    def planning(self) -> PlanningParameters:
        """Return the figures for what nobody has counted or measured yet."""
        known = "params:planning" in self.catalog
        return self.parameter("planning") if known else PlanningParameters()

    def makes(self, dataset: str) -> bool:
        """Return whether a step changes a dataset, so that its content of now does not count."""
        made = {stem(output) for step in self.steps for output in step.outputs}
        return stem(dataset) in made - self.kept

    def path(self, dataset: str) -> Path | None:
        """Return the local file or directory of a dataset that exists and that the run does not change; else None."""
        found = None if self.makes(dataset) else self.place(dataset)
        return found if found is not None and found.exists() else None

    def place(self, dataset: str) -> Path | None:
        """Return the local path of a dataset, whether or not it exists; None for a dataset that is kept elsewhere."""
        entry = self.catalog.get(dataset)
        if getattr(entry, "_protocol", "file") != "file" or getattr(entry, "_version", None) is not None:
            return None
        path = getattr(entry, "_filepath", None) or getattr(entry, "_path", None)
        return None if path is None else Path(path)


def steps_of(pipeline: Pipeline, catalog: CatalogProtocol, kept: Iterable[str] = ()) -> Run:
    """Return the steps of a run; `kept` names its fresh nodes, whose outputs stay what they are."""
    steps = tuple(_step(node, catalog) for node in pipeline.nodes)
    names = {*kept}
    outputs = {stem(output) for step in steps if step.name in names for output in step.outputs}
    return Run(steps, catalog, frozenset(outputs))


def stem(dataset: str) -> str:
    """Return the part of the name that `data@pandas` and `data@path` share."""
    return dataset.split("@")[0]


def _step(node: Node, catalog: CatalogProtocol) -> Step:
    arguments = _arguments(node)
    named = {arg: of.removeprefix(_PARAMETERS) for arg, of in arguments.items() if of.startswith(_PARAMETERS)}
    given = {arg: catalog[arguments[arg]].load() for arg in named}
    datasets = {arg: of for arg, of in arguments.items() if arg not in named}
    return Step(node.name, node.func.__name__, given, named, datasets, tuple(node.outputs))


def _arguments(node: Node) -> dict[str, str]:
    """Return the names of a node's inputs by the arguments of its function."""
    inputs = node._inputs
    by_name = inputs if isinstance(inputs, dict) else {}
    in_order = [inputs] if isinstance(inputs, str) else [] if isinstance(inputs, dict) else [*(inputs or ())]
    signature = inspect.signature(node.func)
    bound = signature.bind(*in_order, **by_name).arguments
    more = [name for name, argument in signature.parameters.items() if argument.kind is argument.VAR_KEYWORD]
    return {name: of for name, of in bound.items() if name not in more} | dict(bound.get(more[0], {}) if more else {})
