"""The provenance of every artefact, recorded beside it, and the nodes whose artefacts are stale.

An artefact is stale if it was made from other inputs, parameters or files than those of now. The record of
`data/06_models/rao` is `data/06_models/.made_from/rao.json`: it moves with its folder, and both names of a table
(`@pandas`, `@path`) share it. Knows nothing of sessions and hooks.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import AbstractDataset, CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from pydantic import BaseModel

from rao_kedro.config.generation import CHANGE_WHAT_IS_COMPUTED
from rao_kedro.files import write_text
from rao_kedro.identity import flatten, named_files, path_hash

RECORDS = ".made_from"
NOT_KEPT = "is not kept in a plain file here"  # stands for the hash of a dataset that has no local file
MADE_AGAIN = "is made again"  # ends the reason of a node that reads a stale output
REASONS_SHOWN = 3
# Of a method's block; the nodes of rounds read it by its own name. What says how many rounds there are changes none.
ROUNDS, NOT_OF_A_ROUND = ".rounds.", ("n", "evaluate_every")
# Inputs that change no result: how workers are started, and where they keep unfinished work.
NO_INPUTS = ("params:workers", "params:data.num_proc")
# Of the options of text generation's engines, only these change what is generated.
ENGINE, ENGINE_INPUTS = ".engine.", (*CHANGE_WHAT_IS_COMPUTED, "dtype")


class Provenance(NamedTuple):
    """Everything that an artefact depends on.

    Attributes:
        node: The node that made it.
        inputs: Hashes of the node's input datasets; None for an optional one that is absent.
        parameters: Values of the node's parameters by their dotted names.
        files: Hashes of the files that these parameters name.
    """

    node: str
    inputs: dict[str, str | None]
    parameters: dict[str, Any]
    files: dict[str, str]


def read_provenance(node: Node, catalog: CatalogProtocol) -> Provenance:
    """Return what a node would make its artefacts from now."""
    parameters = _parameters(node, catalog)
    inputs = {_stem(name): _identity(name, catalog) for name in node.inputs if not _is_parameter(name)}
    return Provenance(node.name, inputs, parameters, named_files(parameters))


def remove_records(node: Node, catalog: CatalogProtocol) -> None:
    """Remove the records of a node's artefacts, before the first of them is replaced."""
    for path in _records(node, catalog).values():
        path.unlink(missing_ok=True)


def write_records(node: Node, catalog: CatalogProtocol, source: Provenance, seconds: float) -> None:
    """Write the records of a node's artefacts, all of which are saved, with the seconds that the node took."""
    for name, path in _records(node, catalog).items():
        path.parent.mkdir(exist_ok=True)
        record = {**source._asdict(), "artefact": _identity(name, catalog), "version": version("rao_kedro")}
        record["seconds"] = round(seconds, 1)
        write_text(path, json.dumps(record, indent=2))


def find_stale_nodes(pipeline: Pipeline, catalog: CatalogProtocol) -> dict[str, list[str]]:
    """Return the nodes with a missing or stale artefact, and the nodes that depend on them.

    Returns:
        The reasons by the name of the node, in the order in which nodes run.
    """
    stale: dict[str, list[str]] = {}
    made_again: set[str] = set()
    for node in pipeline.nodes:
        if reasons := _reasons(node, catalog, made_again):
            stale[node.name] = reasons
            made_again |= {_stem(name) for name in node.outputs}
    return stale


def describe_stale_node(node: str, reasons: list[str]) -> str:
    """Return one line that says why a node is stale."""
    more = f"; and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
    return f"{node}: {'; '.join(reasons[:REASONS_SHOWN])}{more}"


def find_edited(pipeline: Pipeline, catalog: CatalogProtocol) -> list[str]:
    """Return the artefacts that differ from what their nodes saved, as their records say."""
    return [
        _stem(name)
        for node in pipeline.nodes
        for name, path in _records(node, catalog).items()
        if path.exists() and catalog.exists(name) and _read(path).get("artefact") != _identity(name, catalog)
    ]


def _reasons(node: Node, catalog: CatalogProtocol, made_again: set[str]) -> list[str]:
    missing = [f"{_stem(name)} does not exist" for name in node.outputs if not catalog.exists(name)]
    again = [f"{name} {MADE_AGAIN}" for name in sorted({_stem(name) for name in node.inputs} & made_again)]
    if missing or again:
        return missing + again
    now = read_provenance(node, catalog)
    records = _records(node, catalog)
    reasons = [f"{_stem(name)} {NOT_KEPT}" for name in node.outputs if name not in records]
    for name, path in records.items():
        if not path.exists():
            reasons.append(f"nothing says what {_stem(name)} was made from")
        else:
            reasons += _differences(_read(path), now, _defaults(node, catalog))
    return list(dict.fromkeys(reasons))


def _differences(then: Mapping[str, Any], now: Provenance, defaults: set[str]) -> list[str]:
    """Return a sentence for each difference between the recorded provenance and that of now."""
    reasons = [] if then["node"] == now.node else [f"it was made by {then['node']}"]
    for name in sorted({*then["parameters"], *now.parameters}):
        if name not in then["parameters"]:
            if name not in defaults:  # else this version of the package has one more parameter
                reasons.append(f"parameter {name} was not there, is {now.parameters[name]}")
        elif name not in now.parameters:
            reasons.append(f"parameter {name} was {then['parameters'][name]}, is not there")
        elif then["parameters"][name] != now.parameters[name]:
            reasons.append(f"parameter {name} was {then['parameters'][name]}, is {now.parameters[name]}")
    for name in sorted({*then["inputs"], *now.inputs}):
        was, is_now = then["inputs"].get(name), now.inputs.get(name)
        if was is None and is_now is not None:
            reasons.append(f"input {name} was left out")
        elif was is not None and is_now is None:
            reasons.append(f"input {name} is left out")
        elif is_now == NOT_KEPT:
            reasons.append(f"input {name} {NOT_KEPT}, so nothing says whether it changed")
        elif was != is_now:
            reasons.append(f"input {name} changed")
    for name in sorted({*then["files"], *now.files}):
        if then["files"].get(name) != now.files.get(name):
            reasons.append(f"the file that parameter {name} names changed")
    return reasons


def _parameters(node: Node, catalog: CatalogProtocol) -> dict[str, Any]:
    given = {name.removeprefix("params:"): catalog[name].load() for name in _parameters_that_matter(node)}
    leaves = {leaf: value for name, block in given.items() for leaf, value in flatten(_plain(block), name).items()}
    return {leaf: value for leaf, value in leaves.items() if _matters(leaf, {*given})}


def _matters(leaf: str, blocks: set[str]) -> bool:
    """Return whether a parameter of one of the blocks that a node reads can change what the node makes."""
    method, is_of_rounds, name = leaf.partition(ROUNDS)
    if is_of_rounds and (name in NOT_OF_A_ROUND or f"{method}{ROUNDS.rstrip('.')}" not in blocks):
        return False
    return ENGINE not in leaf or leaf.rpartition(".")[2] in ENGINE_INPUTS


def _parameters_that_matter(node: Node) -> list[str]:
    return [name for name in node.inputs if _is_parameter(name) and name not in NO_INPUTS]


def _defaults(node: Node, catalog: CatalogProtocol) -> set[str]:
    """Return the parameters of a node that have their default values."""
    found: set[str] = set()
    for name in _parameters_that_matter(node):
        block = catalog[name].load()
        if isinstance(block, BaseModel):
            prefix = name.removeprefix("params:")
            every = flatten(_plain(block), prefix)
            found |= {*every} - {*flatten(block.model_dump(mode="json", exclude_defaults=True), prefix)}
    return found


def _plain(value: Any) -> Any:
    """Return parameters as JSON has them, with the models inside dictionaries and lists too."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _records(node: Node, catalog: CatalogProtocol) -> dict[str, Path]:
    """Return the paths of the records of a node's artefacts; only artefacts in local files have one."""
    paths = {name: _path(catalog.get(name)) for name in node.outputs}
    return {name: path.parent / RECORDS / f"{path.name}.json" for name, path in paths.items() if path is not None}


def _identity(name: str, catalog: CatalogProtocol) -> str | None:
    """Return the content hash of a dataset; None for a dataset that does not exist."""
    dataset = catalog.get(name)
    path = _path(dataset)
    if path is not None:
        return path_hash(path) if path.exists() else None
    return None if dataset is None or (dataset.exists() and dataset.load() is None) else NOT_KEPT


def _path(dataset: AbstractDataset[Any, Any] | None) -> Path | None:
    """Return the local file or directory of a dataset; None for one elsewhere, in memory or with versions."""
    if getattr(dataset, "_protocol", "file") != "file" or getattr(dataset, "_version", None) is not None:
        return None
    path = getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
    return None if path is None else Path(path)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _is_parameter(name: str) -> bool:
    return name.startswith("params:") or name == "parameters"


def _stem(name: str) -> str:
    return name.split("@")[0]
