"""Kedro hooks.

Before anything runs: keys, places that cannot be used, a missing input's maker, wrong rewards. Behind every node: what
its artefacts were made from, or, where it failed because no row was left, which rows were dropped, and why.
"""

import os
from pathlib import Path
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline

from rao_kedro.datasets.locations import refuse_unusable_locations
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.freshness import MadeFrom, forget, made_from, note
from rao_kedro.preferences.quarantine import NoGroupsLeftError
from rao_kedro.preferences.report import quarantine_report
from rao_kedro.rewards.registry import build_reward
from rao_kedro.schemas.rewards import RewardParameters


class CredentialsHooks:
    """Gives keys of Kedro's credentials to the clients and worker processes that read them from the environment."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Set the environment variables of `api_keys` in the credentials; one that is set already stays.

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
    """Checks where the entries of the catalog are kept."""

    @hook_impl(tryfirst=True)  # kedro-mlflow's makes every dataset
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Refuse what cannot be read or written there.

        Raises:
            ParameterError: Names the entries, and says why.
        """
        refuse_unusable_locations(conf_catalog)


class MissingInputHooks:
    """Checks the inputs of a run."""

    @hook_impl(tryfirst=True)  # before MLflow's, so that a refused run leaves no entry there
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse a run whose inputs do not exist yet.

        Raises:
            DataError: Names every missing dataset and the pipeline that makes it.
            ParameterError: There is no such reward, or it does not take these parameters.
        """
        for name in pipeline.inputs():
            if name.startswith("params:"):
                _refuse_wrong_reward(catalog.load(name))
        missing = sorted(
            name for name in pipeline.inputs() if not name.startswith("params:") and not catalog.exists(name)
        )
        if missing:
            raise DataError("\n".join(f"{name} does not exist: {_remedy(name)}" for name in missing))


# What explains a failure of these nodes: the table of quarantined rows, and the report that counts them.
_EXPLANATIONS = {
    "collect_preferences": ("quarantined_rows", "data_report"),
    "tokenize": ("quarantined_rows", "data_report"),
    "measure_reward": ("reward_benchmark_quarantine", None),
}


class QuarantineHooks:
    """Saves why rows were quarantined also where none was left, so that the node failed."""

    @hook_impl
    def on_node_error(self, error: Exception, node: Node, catalog: CatalogProtocol) -> None:
        """Save the table and the report of an error that says that no group is left."""
        if isinstance(error, NoGroupsLeftError) and node.name in _EXPLANATIONS:
            table, report = _EXPLANATIONS[node.name]
            catalog.save(table, error.quarantined)
            if report is not None:
                catalog.save(report, quarantine_report(error.quarantined))


class FreshnessHooks:
    """Writes beside every artefact what it was made from; see `rao_kedro.freshness`."""

    def __init__(self) -> None:
        """Start with no node running."""
        self._running: dict[str, tuple[MadeFrom, CatalogProtocol, set[str]]] = {}

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """See what the node is given: a file that is edited while it runs is not what it made its artefacts from."""
        self._running[node.name] = (made_from(node, catalog), catalog, set(node.outputs))

    @hook_impl
    def after_node_run(self, node: Node, catalog: CatalogProtocol) -> None:
        """Take back what the records say, before the first artefact is replaced: the last one may never be."""
        forget(node, catalog)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Write the records, once all artefacts of the node are saved."""
        source, catalog, unsaved = self._running[node.name]
        unsaved.discard(dataset_name)
        if not unsaved:
            note(node, catalog, source)


def _refuse_wrong_reward(parameters: Any) -> None:
    within = getattr(parameters, "rollout", parameters)
    reward = parameters if isinstance(parameters, RewardParameters) else getattr(within, "reward", None)
    if isinstance(reward, RewardParameters) and reward != RewardParameters():  # the usual one needs no check, nor torch
        build_reward(reward.with_defaults(Path(), Path(), "no", Path()))


def _remedy(dataset: str) -> str:
    makers = [
        name
        for name, pipeline in pipelines.items()
        if name != "__default__" and _stem(dataset) in {_stem(output) for output in pipeline.all_outputs()}
    ]
    if makers:
        return f"run `kedro run --pipelines {makers[0]}` first (in the same --env)"
    return "no pipeline makes it: put the file where the catalog expects it (`kedro catalog describe-datasets`)"


def _stem(dataset: str) -> str:
    return dataset.split("@")[0]
