"""Which runs a command takes: the runs that its options name, or else those that the parameters choose.

Everybody who needs to know asks `choose_runs`: a session, and the context, from which kedro-viz and notebooks have
their pipelines. Knows nothing of data.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, Self, TypeVar

from kedro.pipeline import Node

from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.run_names import method_of, owner_of
from rao_kedro.errors import ParameterError
from rao_kedro.pipeline_registry import build_pipelines
from rao_kedro.pipelines.runs import LIKELIHOOD_STUDY, METHODS, REWARD_MODEL_STUDY, Rounds, Runs, study_namespace

Run = TypeVar("Run")


@dataclass(frozen=True)
class Selection:
    """The options of `KedroSession.run` that select nodes, under its names; an empty one is not given."""

    pipeline_names: tuple[str, ...] = ("__default__",)
    tags: tuple[str, ...] = ()
    node_names: tuple[str, ...] = ()
    from_nodes: tuple[str, ...] = ()
    to_nodes: tuple[str, ...] = ()
    from_inputs: tuple[str, ...] = ()
    to_outputs: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    @classmethod
    def from_options(cls, pipeline_name: str | None = None, **options: Iterable[str] | None) -> Self:
        """Return the selection of options as `KedroSession.run` takes them; None and () are options not given."""
        if pipeline_name:
            options["pipeline_names"] = [pipeline_name]
        return cls(**{name: tuple(values) for name, values in options.items() if values})

    def by_option(self) -> dict[str, tuple[str, ...]]:
        """Return the names that each given option selects within the pipelines."""
        options = {field.name: values for field, values in zip(fields(self), astuple(self), strict=True)}
        return {name: values for name, values in options.items() if values and name != "pipeline_names"}


def choose_runs(parameters: Mapping[str, Any], selection: Selection = Selection()) -> Runs:
    """Return the runs that a command takes.

    Args:
        parameters: Of the project, as `StudyContext.params` has them: each run of a method is a block of `alignment`.
        selection: The options of the command. A run is named by its namespace, its tag, or by a node or dataset of its
            own; the tag of a method names the runs of all its seeds. Of the methods and of each study, the named runs
            take the place of those that the parameters choose.

    Raises:
        ParameterError: The parameter `methods` names an unknown method, or none; the base model is to be compared with
            itself; or a method cannot train on what it would be given.
    """
    if parameters["evaluation"].base_model and not _finetunes(parameters):
        raise ParameterError(
            "parameter evaluation.base_model: supervised_finetuning.start is none, so that the row sft is the base "
            "model already: set it to false"
        )
    known, methods = all_runs(parameters), chosen_methods(parameters["methods"])
    named = _named(selection, known)
    alignment = {run: of for run, of in known.alignment.items() if run in named} or {
        run: of for method in methods for run, of in known.alignment.items() if method_of(run) == method
    }
    for run in alignment:
        if why := parameters["alignment"][run].why_no_training():
            raise ParameterError(f"alignment.{method_of(run)} {why}")
    studied = parameters[LIKELIHOOD_STUDY].only or known.likelihood_study
    return Runs(
        rounds=known.rounds,
        alignment=alignment,
        likelihood_study=_named_of_study(LIKELIHOOD_STUDY, known.likelihood_study, named)
        or {run: known.likelihood_study[run] for run in studied},
        estimating=known.estimating,
        reward_model_study=_named_of_study(REWARD_MODEL_STUDY, known.reward_model_study, named)
        or known.reward_model_study,
        benchmarks=parameters["evaluation"].benchmarks.chosen,
        base_model=parameters["evaluation"].base_model,
        conversations=_learns_conversations(parameters),
        finetunes=_finetunes(parameters),
        named=tuple(named),
    )


def all_runs(parameters: Mapping[str, Any]) -> Runs:
    """Return all runs that the parameters know, chosen or not."""
    return Runs(
        alignment={run: block.objective for run, block in parameters["alignment"].items()},
        rounds={run: _rounds(block.rounds) for run, block in parameters["alignment"].items() if block.in_rounds},
        likelihood_study={run: block.objective for run, block in parameters[LIKELIHOOD_STUDY].runs.items()},
        estimating=tuple(_estimating(parameters)),
        reward_model_study=parameters[REWARD_MODEL_STUDY].runs(),
        benchmarks=True,
        base_model=parameters["evaluation"].base_model,
        conversations=_learns_conversations(parameters),
        finetunes=_finetunes(parameters),
    )


def _rounds(parameters: RoundsParameters) -> Rounds:
    moves = parameters.reference == "previous"
    return Rounds(parameters.n, parameters.warm_start, moves, tuple(parameters.evaluated()))


def _estimating(parameters: Mapping[str, Any]) -> Iterator[str]:
    studied = parameters[LIKELIHOOD_STUDY].runs.items()
    runs = parameters["alignment"] | {study_namespace(LIKELIHOOD_STUDY, run): block for run, block in studied}
    return (namespace for namespace, block in runs.items() if block.parameters.get("log_z0") == "estimated")


def _finetunes(parameters: Mapping[str, Any]) -> bool:
    return bool(parameters["supervised_finetuning"].start != "none")


def _learns_conversations(parameters: Mapping[str, Any]) -> bool:
    return _finetunes(parameters) and parameters["data"].conversations is not None


def _named(selection: Selection, known: Runs) -> list[str]:
    """Return the namespaces of the runs that the options of a command name."""
    if not selection.by_option():
        return []
    every = {node.name: node for pipeline in build_pipelines(known).values() for node in pipeline.nodes}
    owners = _owners(every.values())
    named = {owners.get(_stem(name)) for name in (*selection.from_inputs, *selection.to_outputs)}
    nodes = {*selection.node_names, *selection.from_nodes, *selection.to_nodes}
    named |= {node.namespace for name, node in every.items() if name in nodes} | {*selection.namespaces}
    named |= {run for run in known.alignment if {run, method_of(run)} & {*selection.tags}}
    named |= {owner_of(namespace) for namespace in named if namespace}
    return [namespace for namespace in known.namespaces() if namespace in named]


def chosen_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Return the methods that the parameter `methods` names.

    Raises:
        ParameterError: One is unknown, or none is named.
    """
    chosen = tuple(dict.fromkeys(names))
    if unknown := sorted(set(chosen) - set(METHODS)):
        raise ParameterError(f"parameter methods: unknown {', '.join(unknown)}; choose from {' '.join(METHODS)}")
    if not chosen:
        raise ParameterError(f"parameter methods names none; choose from {' '.join(METHODS)}")
    return chosen


def _named_of_study(study: str, runs: Mapping[str, Run], named: Iterable[str]) -> dict[str, Run]:
    return {run: of for run, of in runs.items() if study_namespace(study, run) in named}


def _owners(nodes: Iterable[Node]) -> dict[str, str | None]:
    """Return the namespace that makes each dataset or, where none does, the only one that reads it."""
    readers: dict[str, set[str | None]] = defaultdict(set)
    makers: dict[str, str | None] = {}
    for node in nodes:
        makers |= {_stem(name): node.namespace for name in node.outputs}
        for name in node.inputs:
            readers[_stem(name)].add(node.namespace)
    return {name: next(iter(spaces)) for name, spaces in readers.items() if len(spaces) == 1} | makers


def _stem(dataset: str) -> str:
    return dataset.split("@")[0]
