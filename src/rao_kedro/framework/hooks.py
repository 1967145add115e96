"""Kedro hooks.

Before anything runs they set keys, and check the catalog's locations and the plan. After every node they record the
provenance of its artefacts; where a node failed because no row was left, they save which rows were dropped, and why.
"""

import os
import time
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from rao_kedro.data.quarantine import NoGroupsLeftError
from rao_kedro.data.report import quarantine_report
from rao_kedro.datasets.freshness import Provenance, read_provenance, remove_records, write_records
from rao_kedro.datasets.locations import refuse_unusable_locations
from rao_kedro.errors import ParameterError, PlanError
from rao_kedro.planning.checks import problems, problems_of_made


class CredentialsHooks:
    """Puts keys of Kedro's credentials into the environment, where clients and worker processes read them."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Set the environment variables of `api_keys` in the credentials; a variable that is set already stays.

        Raises:
            ParameterError: A key is not text.
        """
        try:
            keys = context.config_loader["credentials"].get("api_keys") or {}
        except MissingConfigException:
            return
        for name, key in keys.items():
            if not isinstance(key, str):
                raise ParameterError(f"credentials: api_keys.{name} is not text: put it in quotes")
            os.environ.setdefault(name, key)


class LocationHooks:
    """Checks the locations of the catalog's entries."""

    @hook_impl(tryfirst=True)  # kedro-mlflow's makes every dataset
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Refuse locations that cannot be read or written.

        Raises:
            ParameterError: Names the entries, and says why.
        """
        refuse_unusable_locations(conf_catalog)


class PlanHooks:
    """Checks a run before any node of it runs."""

    def __init__(self) -> None:
        """Start without a run."""
        self._unchecked: Pipeline | None = None

    @hook_impl(tryfirst=True)  # before MLflow's, so that a refused run leaves no entry there
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse a run whose inputs do not exist, or that could not go as planned.

        Raises:
            PlanError: Names all that is wrong, and every missing dataset with the pipeline that makes it.
        """
        pipeline = nodes_that_run(pipeline, catalog, run_params["only_missing_outputs"])
        refuse_bad_plan(pipeline, catalog)
        makes_groups = TOKENIZED in map(_stem, pipeline.all_outputs())
        others = [node for node in pipeline.nodes if not {TOKENIZED, BASE_MODEL} & {*map(_stem, node.outputs)}]
        self._unchecked = Pipeline(others) if makes_groups else None

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Check the lengths of the tokenised groups and the model's chat template before anything is trained.

        Raises:
            PlanError: Names the groups that are too long, and the variables that the template does not read.
        """
        if self._unchecked is not None and TOKENIZED in map(_stem, node.inputs):
            pipeline, self._unchecked = self._unchecked, None
            if found := problems_of_made(pipeline, catalog):
                raise PlanError("\n".join(found))


BASE_MODEL, TOKENIZED = "base_model", "tokenized_groups"  # the groups are made with the model's tokenizer


def nodes_that_run(pipeline: Pipeline, catalog: CatalogProtocol, only_missing_outputs: bool) -> Pipeline:
    """Return the nodes of a pipeline that the runner will run: all, or those that make missing outputs."""
    if not only_missing_outputs:
        return pipeline
    return SequentialRunner()._filter_pipeline_for_missing_outputs(pipeline, catalog)


def refuse_bad_plan(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Refuse a run whose inputs do not exist, or that could not go as planned.

    Raises:
        PlanError: Names all that is wrong.
    """
    missing = sorted(name for name in pipeline.inputs() if not name.startswith("params:") and not catalog.exists(name))
    found = [_missing(name, catalog) for name in missing] + problems(pipeline, catalog)
    if found:
        raise PlanError("\n".join(found))


# Nodes that fail where no row is left: their table of quarantined rows, and the report that counts its reasons.
_EXPLANATIONS = {
    "collect_preferences": ("quarantined_rows", "data_report"),
    "tokenize": ("quarantined_rows", "data_report"),
    "collect_conversations": ("quarantined_conversations", "conversation_report"),
    "tokenize_conversations": ("quarantined_conversations", "conversation_report"),
    "measure_reward": ("reward_benchmark_quarantine", None),
}


class QuarantineHooks:
    """Saves why rows were quarantined where a node failed because none was left."""

    @hook_impl
    def on_node_error(self, error: Exception, node: Node, catalog: CatalogProtocol) -> None:
        """Save the quarantined rows of an error that says that no group is left, and their report."""
        if isinstance(error, NoGroupsLeftError) and node.name in _EXPLANATIONS:
            table, report = _EXPLANATIONS[node.name]
            catalog.save(table, error.quarantined)
            if report is not None:
                catalog.save(report, quarantine_report(error.reasons))


class FreshnessHooks:
    """Records the provenance of every artefact; see `rao_kedro.datasets.freshness`."""

    def __init__(self) -> None:
        """Start without a running node."""
        self._running: dict[str, tuple[Provenance, CatalogProtocol, set[str], float]] = {}

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Read the provenance before the node runs: a file may be edited while it runs."""
        self._running[node.name] = (read_provenance(node, catalog), catalog, set(node.outputs), time.monotonic())

    @hook_impl
    def after_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Remove the old records before the first artefact is replaced: the run may be killed before the last one."""
        remove_records(node, catalog)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Write the records once all artefacts of the node are saved."""
        source, catalog, unsaved, started = self._running[node.name]
        unsaved.discard(dataset_name)
        if not unsaved:
            write_records(node, catalog, source, time.monotonic() - started)


def _missing(dataset: str, catalog: CatalogProtocol) -> str:
    makers = [
        name
        for name, pipeline in pipelines.items()
        if name != "__default__" and _stem(dataset) in {_stem(output) for output in pipeline.all_outputs()}
    ]
    if makers:
        return f"{dataset} does not exist: run `kedro run --pipelines {makers[0]}` first (same --env, same --params)"
    path = getattr(catalog.get(dataset), "_filepath", None)
    return f"{dataset} does not exist: no pipeline makes it: put the file where the catalog expects it ({path})"


def _stem(dataset: str) -> str:
    return dataset.split("@")[0]
