"""Which nodes a command takes: what its options select from the pipelines of its runs, and what the named runs lack.

Knows pipelines and names; nothing of sessions, and of data only whether a dataset exists.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from rao_kedro.config.run_names import method_of
from rao_kedro.errors import ParameterError
from rao_kedro.framework.choose_runs import Selection
from rao_kedro.pipelines.evaluation.pipeline import BENCHMARK_TAG
from rao_kedro.pipelines.runs import METHODS

# What the options of `KedroSession.run` are called by the command line, and by Kedro's filter where that differs.
FLAGS = {"node_names": "--nodes"}
FILTERS = {"namespaces": "node_namespaces"}


def select_nodes(selection: Selection, taken: Mapping[str, Pipeline], every: Mapping[str, Pipeline]) -> Pipeline:
    """Return the nodes of the asked pipelines that all options select, as Kedro's filter does.

    Args:
        selection: The options.
        taken: The pipelines of the runs that the command takes.
        every: The pipelines of all runs, and with benchmarks: they say what a name could have meant.

    Raises:
        ParameterError: A name matches nothing, or no node matches all options; says what is there instead.
    """
    pipeline = combine(selection.pipeline_names, taken)
    options = selection.by_option()
    for option, names in options.items():
        for name in names:
            if name not in _known_names(option, pipeline):
                raise ParameterError(f"{_flag(option)} {name}: {_explain_unknown(option, name, selection, every)}")
    try:
        return pipeline.filter(**{FILTERS.get(option, option): names for option, names in options.items()})
    except ValueError as error:  # all names are known, so no node matches all of them
        given = (f"{_flag(option)} {','.join(names)}" for option, names in options.items())
        raise ParameterError(f"no node is in all of {' '.join(given)}: leave one of them out") from error


def combine(names: Iterable[str], pipelines: Mapping[str, Pipeline]) -> Pipeline:
    """Return the sum of the pipelines with these names.

    Raises:
        ParameterError: There is no such pipeline; names the nearest.
    """
    for name in names:
        if name not in pipelines:
            raise ParameterError(f"--pipelines {name}: {_nearest(name, (p for p in pipelines if p != '__default__'))}")
    pipeline = sum((pipelines[name] for name in names), start=Pipeline([]))
    if not pipeline.nodes and "supervised_finetuning" in names:
        raise ParameterError(
            "--pipelines supervised_finetuning: supervised_finetuning.start is none, so that nothing is fine-tuned: "
            "set it to base_model, or leave the pipeline out"
        )
    return pipeline


def combine_all(pipelines: Mapping[str, Pipeline]) -> Pipeline:
    """Return the sum of all pipelines: it is searched and never run, so that the order of its nodes does not matter."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Namespace .* is interrupted")
        return combine(pipelines, pipelines)


def needed_nodes(selected: Pipeline, asked: Pipeline, exists: Callable[[str], bool]) -> list[Node]:
    """Return the nodes of the asked pipelines that make what the selected nodes read and is missing.

    Nodes between these and the selected ones are added: their outputs would be made from something else.

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


def _flag(option: str) -> str:
    return FLAGS.get(option, f"--{option.replace('_', '-')}")


def _known_names(option: str, pipeline: Pipeline) -> set[str]:
    """Return the names that an option can have."""
    if option == "tags":
        return {tag for node in pipeline.nodes for tag in node.tags}
    if option == "namespaces":  # a study, too, which is that of its runs
        namespaces = [node.namespace.split(".") for node in pipeline.nodes if node.namespace]
        return {".".join(parts[:n]) for parts in namespaces for n in range(1, len(parts) + 1)}
    if option in ("from_inputs", "to_outputs"):
        datasets = pipeline.all_inputs() if option == "from_inputs" else pipeline.all_outputs()
        return datasets | {_stem(name) for name in datasets}
    return {node.name for node in pipeline.nodes}


def _explain_unknown(option: str, name: str, selection: Selection, every: Mapping[str, Pipeline]) -> str:
    """Say why no node matches a name."""
    asked = [*selection.pipeline_names]
    if name in _known_names(option, (whole := combine(asked, every)).only_nodes_with_tags(BENCHMARK_TAG)):
        return "evaluation.benchmarks.names names no benchmark, so nothing is judged and compared on one"
    if name in _known_names(option, whole):
        return "no method of this run has it; name one that has, with --namespaces"
    parts = {part: pipeline for part, pipeline in every.items() if part not in ("__default__", "study")}
    if elsewhere := [part for part, pipeline in parts.items() if name in _known_names(option, pipeline)]:
        shown = " ".join("the default pipeline" if name == "__default__" else name for name in asked)
        return f"it is not in {shown}, but in {elsewhere[0]}: name that in --pipelines too"
    method = method_of(name.split(".")[0])
    if method in METHODS and method != name.split(".")[0]:
        return f"{method} has no run with this seed: name it in the parameter alignment.{method}.seeds"
    return _nearest(name, _known_names(option, combine_all(every)))


def _nearest(name: str, known: Iterable[str]) -> str:
    nearest: Sequence[str] = get_close_matches(name, sorted(known), cutoff=0.0)
    return f"there is none of this name; the nearest are {', '.join(nearest)}"


def _stem(dataset: str) -> str:
    return dataset.split("@")[0]
