"""The nodes of a run with what each is given: parameters by the argument's name, and datasets."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline

from rao_kedro.config.workers import WorkerParameters

_PARAMETERS = "params:"


@dataclass(frozen=True)
class Step:
    """A node that will run.

    Attributes:
        name: Of the node.
        function: Name of its function, which says what it does.
        given: Values of its parameters by the function's argument.
        named: Their dotted names by the argument.
        datasets: Names of its input datasets by the argument.
        outputs: Names of its output datasets.
    """

    name: str
    function: str
    given: Mapping[str, Any]
    named: Mapping[str, str]
    datasets: Mapping[str, str]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """All of a run.

    Attributes:
        steps: In the order in which they run.
        catalog: Where the data are.
        kept: Datasets that steps make again, but from what is there now, so that they come out as they are.
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

    def makes(self, dataset: str) -> bool:
        """Return whether a step makes a dataset anew, so that what is there now does not count."""
        made = {stem(output) for step in self.steps for output in step.outputs}
        return stem(dataset) in made - self.kept

    def path(self, dataset: str) -> Path | None:
        """Return the local file or directory of a dataset that is there, and stays as it is; else None."""
        found = None if self.makes(dataset) else self.place(dataset)
        return found if found is not None and found.exists() else None

    def place(self, dataset: str) -> Path | None:
        """Return where a dataset is kept on this machine, whether or not it is there; None for any other."""
        entry = self.catalog.get(dataset)
        if getattr(entry, "_protocol", "file") != "file" or getattr(entry, "_version", None) is not None:
            return None
        path = getattr(entry, "_filepath", None) or getattr(entry, "_path", None)
        return None if path is None else Path(path)


def steps_of(pipeline: Pipeline, catalog: CatalogProtocol, kept: Iterable[str] = ()) -> Run:
    """Return a run's nodes with what they are given; `kept` names nodes whose outputs come out as they are."""
    steps = tuple(_step(node, catalog) for node in pipeline.nodes)
    names = {*kept}
    outputs = {stem(output) for step in steps if step.name in names for output in step.outputs}
    return Run(steps, catalog, frozenset(outputs))


def stem(dataset: str) -> str:
    """Return the name that `data@pandas` and `data@path` share."""
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
