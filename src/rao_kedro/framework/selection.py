"""Which nodes a run takes: what its options select, for the methods that they name, and what these need.

Knows pipelines and names; nothing of sessions, and of data only whether a dataset exists.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from rao_kedro.config.runs import method_of
from rao_kedro.errors import ParameterError
from rao_kedro.pipelines.evaluation.pipeline import BENCHMARKS
from rao_kedro.pipelines.methods import METHODS

# Options of `KedroSession.run` that select nodes: how Kedro's filter and how the command line call them.
OPTIONS = {
    "tags": ("tags", "--tags"),
    "node_names": ("node_names", "--nodes"),
    "from_nodes": ("from_nodes", "--from-nodes"),
    "to_nodes": ("to_nodes", "--to-nodes"),
    "from_inputs": ("from_inputs", "--from-inputs"),
    "to_outputs": ("to_outputs", "--to-outputs"),
    "namespaces": ("node_namespaces", "--namespaces"),
}


def named_runs(options: Mapping[str, Any], every: Pipeline, runs: Collection[str]) -> list[str]:
    """Return the runs that the options of a run name: as namespace, tag, or by a node or dataset of their own.

    Args:
        options: Of `KedroSession.run`.
        every: All pipelines, with all runs.
        runs: Names of all runs. The tag of a method names all of its runs.
    """
    asked = {option: {*(options.get(option) or ())} for option in OPTIONS}
    owners = _owners(every)
    named = {owners.get(_stem(name)) for name in asked["from_inputs"] | asked["to_outputs"]} | asked["namespaces"]
    nodes = asked["node_names"] | asked["from_nodes"] | asked["to_nodes"]
    named |= {node.namespace for node in every.nodes if node.name in nodes}
    return [run for run in runs if run in named or asked["tags"] & {run, method_of(run)}]


def _owners(pipeline: Pipeline) -> dict[str, str | None]:
    """Return the namespace that makes each dataset or, where none does, that alone reads it."""
    readers: dict[str, set[str | None]] = defaultdict(set)
    makers: dict[str, str | None] = {}
    for node in pipeline.nodes:
        makers |= {_stem(name): node.namespace for name in node.outputs}
        for name in node.inputs:
            readers[_stem(name)].add(node.namespace)
    return {name: next(iter(spaces)) for name, spaces in readers.items() if len(spaces) == 1} | makers


def select(
    options: Mapping[str, Any],
    names: Sequence[str],
    taken: Mapping[str, Pipeline],
    every: Mapping[str, Pipeline],
) -> Pipeline:
    """Return the nodes of the asked pipelines that all options select, as Kedro's filter does.

    Args:
        options: Of `KedroSession.run`.
        names: Of the asked pipelines.
        taken: The pipelines of the chosen runs.
        every: The pipelines with all runs, and with benchmarks.

    Raises:
        ParameterError: A name matches nothing, or no node matches all options; says what is there instead.
    """
    pipeline = combined(names, taken)
    for option, (_, flag) in OPTIONS.items():
        for name in options.get(option) or ():
            if name not in _known(option, pipeline):
                raise ParameterError(f"{flag} {name}: {_reason(option, name, names, every)}")
    try:
        return pipeline.filter(**{how: options.get(option) for option, (how, _) in OPTIONS.items()})
    except ValueError as error:  # all names are known, so no node matches all of them
        given = (f"{flag} {','.join(options[option])}" for option, (_, flag) in OPTIONS.items() if options.get(option))
        raise ParameterError(f"no node is in all of {' '.join(given)}: leave one of them out") from error


def combined(names: Iterable[str], pipelines: Mapping[str, Pipeline]) -> Pipeline:
    """Return the sum of the pipelines that are called so.

    Raises:
        ParameterError: There is no such pipeline; names the nearest.
    """
    for name in names:
        if name not in pipelines:
            raise ParameterError(f"--pipelines {name}: {_nearest(name, (p for p in pipelines if p != '__default__'))}")
    return sum((pipelines[name] for name in names), start=Pipeline([]))


def needed_nodes(selected: Pipeline, asked: Pipeline, exists: Callable[[str], bool]) -> list[Node]:
    """Return the nodes of the asked pipelines that make what the selected ones read and is missing.

    And those between them and the selected ones, whose outputs would be made from something else.

    Args:
        selected: Nodes that run in any case.
        asked: The pipelines that they are selected from.
        exists: Whether there is a dataset of this name.
    """
    makers = {_stem(name): node for node in asked.nodes for name in node.outputs}
    upstream = asked.to_nodes(*(node.name for node in selected.nodes)).nodes
    own, added = {*selected.nodes}, set[Node]()
    while True:
        found = {
            makers[_stem(name)]
            for node in own | added
            for name in node.inputs
            if _stem(name) in makers and not exists(name)
        }
        found |= {node for node in upstream if any(makers.get(_stem(name)) in added for name in node.inputs)}
        if found <= own | added:
            return [node for node in upstream if node in added]
        added |= found - own


def _known(option: str, pipeline: Pipeline) -> set[str]:
    """Return the names that an option can have."""
    if option == "tags":
        return {tag for node in pipeline.nodes for tag in node.tags}
    if option == "namespaces":
        return {node.namespace for node in pipeline.nodes if node.namespace}
    if option in ("from_inputs", "to_outputs"):
        datasets = pipeline.all_inputs() if option == "from_inputs" else pipeline.all_outputs()
        return datasets | {_stem(name) for name in datasets}
    return {node.name for node in pipeline.nodes}


def _reason(option: str, name: str, asked: Sequence[str], every: Mapping[str, Pipeline]) -> str:
    """Say why no node matches a name."""
    if name in _known(option, (whole := combined(asked, every)).only_nodes_with_tags(BENCHMARKS)):
        return "evaluation.benchmarks.names names no benchmark, so nothing is judged and compared on one"
    if name in _known(option, whole):
        return "no method of this run has it; name one that has, with --namespaces"
    parts = {part: pipeline for part, pipeline in every.items() if part not in ("__default__", "study")}
    if elsewhere := [part for part, pipeline in parts.items() if name in _known(option, pipeline)]:
        return f"it is not in {' '.join(asked)}, but in {elsewhere[0]}: name that in --pipelines too"
    method = method_of(name.split(".")[0])
    if method in METHODS and method != name.split(".")[0]:
        return f"{method} has no run with this seed: name it in the parameter alignment.{method}.seeds"
    return _nearest(name, _known(option, combined(every, every)))


def _nearest(name: str, known: Iterable[str]) -> str:
    return (
        f"there is none of this name; the nearest are {', '.join(get_close_matches(name, sorted(known), cutoff=0.0))}"
    )


def _stem(dataset: str) -> str:
    return dataset.split("@")[0]
