"""Kedro's session, with runs of methods and studies, stale outputs and dry runs, which Kedro does not know.

`rao_kedro.framework.choose_runs` chooses the runs of a command, `rao_kedro.framework.selection` its nodes.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.runner import AbstractRunner

from rao_kedro.datasets.freshness import MADE_AGAIN, describe_stale_node, find_edited, find_stale_nodes
from rao_kedro.errors import ParameterError, PlanError
from rao_kedro.framework.choose_runs import Selection, all_runs, choose_runs
from rao_kedro.framework.config_loader import conf_in_use
from rao_kedro.framework.context import StudyContext
from rao_kedro.framework.hooks import nodes_that_run, refuse_bad_plan
from rao_kedro.framework.selection import combine, combine_all, needed_nodes, select_nodes
from rao_kedro.framework.tracking import TrackingHooks
from rao_kedro.pipeline_registry import build_pipelines
from rao_kedro.planning.table import plan_table

logger = logging.getLogger(__name__)

# Options of `rao_kedro.cli` that Kedro's `run` does not pass on: they stand in the command line that a session stores.
ONLY_STALE_OUTPUTS = "only_stale_outputs"
DRY_RUN = "dry_run"


class StudySession(KedroSession):
    """Runs the pipelines of the runs that its options name, or else of those that the parameters choose."""

    _context: StudyContext | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start a session; see `KedroSession`. A project without configuration takes that of the installed package."""
        super().__init__(*args, **kwargs)
        self._conf_source = conf_in_use(self._conf_source, self._project_path)

    def load_context(self) -> StudyContext:
        """Return the context, created once per session."""
        if self._context is None:
            context = super().load_context()
            assert isinstance(context, StudyContext)
            self._context = context
        return self._context

    def run(  # type: ignore[override]  # options are given by their names, as Kedro's command line does
        self,
        *,
        runner: AbstractRunner | None = None,
        load_versions: dict[str, str] | None = None,
        only_missing_outputs: bool = False,
        only_stale_outputs: bool | None = None,
        dry_run: bool | None = None,
        **selecting: Any,
    ) -> dict[str, Any]:
        """Run pipelines.

        Args:
            runner: See `KedroSession.run`.
            load_versions: See there.
            only_missing_outputs: See there.
            only_stale_outputs: Run only nodes whose outputs are missing or were made from something else, and what
                depends on them; None takes what the command line says.
            dry_run: Check the plan and print it, also where it is refused; nothing runs or is written. None as above.
            **selecting: The options of `KedroSession.run` that select nodes.

        Raises:
            ParameterError: Only missing and only stale outputs are asked for, or what is selected is not there.
            PlanError: The run could not go as planned.
        """
        dry_run = self._is_asked_for(DRY_RUN) if dry_run is None else dry_run
        if only_stale_outputs is None:
            only_stale_outputs = self._is_asked_for(ONLY_STALE_OUTPUTS)
        if only_stale_outputs and only_missing_outputs:
            raise ParameterError("only stale outputs are the missing ones too: ask for one of the two")
        if dry_run:
            self._leave_tracking_out()
        selection = Selection.from_options(**selecting)
        chosen = self._select(selection)
        context = self.load_context()
        if only_stale_outputs:
            stale = _stale(chosen, context.catalog)
            for node, reasons in stale.items():
                logger.info("%s", describe_stale_node(node, reasons))
            if not stale:
                logger.info("nothing is stale: every output was made from what is there now")
                return {}
            chosen = chosen.only_nodes(*stale)
        elif only_missing_outputs:
            _warn_about_what_is_not_missing(chosen, context.catalog)
        warn_about_stale_inputs(chosen, context.catalog)
        if dry_run:
            catalog = context._get_catalog(load_versions=load_versions)
            planned = nodes_that_run(chosen, catalog, only_missing_outputs)
            try:
                refuse_bad_plan(planned, catalog)
            except PlanError:
                with suppress(OSError, ValueError):  # it may be refused for what the table would read
                    print(plan_table(planned, catalog, _stale(planned, catalog)))
                raise
            print(plan_table(planned, catalog, _stale(planned, catalog)))
            return {}
        everything = combine(selection.pipeline_names, pipelines)
        is_part = len(chosen.nodes) < len(everything.nodes)  # else kedro-viz shows the status of the run's nodes
        try:
            return super().run(
                pipeline_names=_requested(selection),
                node_names=[node.name for node in chosen.nodes] if is_part else None,
                runner=runner,
                load_versions=load_versions,
                only_missing_outputs=only_missing_outputs,
            )
        except KeyboardInterrupt:  # of which Kedro tells no hook
            for hooks in self._tracking_hooks():
                hooks.end("KILLED")
            raise

    def selected(self, **options: Any) -> Pipeline:
        """Return the nodes that `run` would run with these options, fresh or not.

        Raises:
            ParameterError: What is selected is not there.
        """
        return self._select(Selection.from_options(**options))

    def stale_nodes(self, **options: Any) -> Mapping[str, list[str]]:
        """Return why nodes are stale, by their names, of those that `run` would run with these options."""
        return _stale(self.selected(**options), self.load_context().catalog)

    def _select(self, selection: Selection) -> Pipeline:
        """Return the nodes of a run; Kedro is given the pipelines of exactly the chosen runs."""
        pipelines.set_requested(_requested(selection))  # as Kedro does: another request would drop what is set here
        context = self.load_context()
        runs = choose_runs(context.params, selection)
        pipelines.update(build_pipelines(runs))
        if not selection.by_option():
            return combine(selection.pipeline_names, pipelines)
        selected = select_nodes(selection, pipelines, build_pipelines(all_runs(context.params)))
        if not runs.named:
            return selected
        needed = needed_nodes(selected, combine(selection.pipeline_names, pipelines), context.catalog.exists)
        if needed:
            names = ", ".join(node.name for node in needed)
            logger.info("%s: what is missing for this is made first: %s", " ".join(runs.named), names)
        return selected + Pipeline(needed)

    def _is_asked_for(self, option: str) -> bool:
        return bool(self.store.get("cli", {}).get("params", {}).get(option, False))

    def _tracking_hooks(self) -> list[TrackingHooks]:
        return [plugin for plugin in self._hook_manager.get_plugins() if isinstance(plugin, TrackingHooks)]

    def _leave_tracking_out(self) -> None:
        """Keep MLflow from beginning an experiment when the context is created."""
        for hooks in self._tracking_hooks():
            self._hook_manager.unregister(hooks)


def _requested(selection: Selection) -> list[str] | None:
    """Return the pipelines that a command names, as Kedro's session takes them."""
    return None if selection.pipeline_names == Selection.pipeline_names else [*selection.pipeline_names]


def _stale(pipeline: Pipeline, catalog: CatalogProtocol) -> dict[str, list[str]]:
    for name in find_edited(pipeline, catalog):
        logger.warning("%s is not what its node saved: it is taken as it is", name)
    return find_stale_nodes(pipeline, catalog)


def _warn_about_what_is_not_missing(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    there = {node.name for node in pipeline.nodes if all(map(catalog.exists, node.outputs))}
    stale = {node: reasons for node, reasons in _stale(pipeline, catalog).items() if node in there}
    for node, reasons in stale.items():
        logger.warning("stale, but not missing: %s", describe_stale_node(node, reasons))
    if stale:
        logger.warning("--only-missing-outputs does not make these again: --only-stale-outputs does")


def warn_about_stale_inputs(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Warn about stale inputs of a run that it does not make again; one that lacks an input is refused anyway."""
    if not all(map(catalog.exists, pipeline.inputs())):
        return
    every = combine_all(pipelines)
    made_elsewhere = _stems(pipeline.inputs())
    made_elsewhere = {name for name in every.all_outputs() if _stems({name}) <= made_elsewhere}
    if not made_elsewhere:
        return
    for node, reasons in _stale(every.to_outputs(*made_elsewhere), catalog).items():
        if not all(reason.endswith(MADE_AGAIN) for reason in reasons):  # else another line says why
            logger.warning("this run takes what is stale: %s", describe_stale_node(node, reasons))


def _stems(names: set[str]) -> set[str]:
    return {name.split("@")[0] for name in names}
