"""Kedro's session, except that a run takes exactly the methods that its options name, or else the parameter `methods`.

It can run only what is stale, and says what is stale of what a run does not make again.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from rao_kedro.datasets.freshness import MADE_AGAIN, described, edited, stale_nodes
from rao_kedro.errors import ParameterError
from rao_kedro.framework.config_loader import conf_in_use
from rao_kedro.framework.context import StudyContext
from rao_kedro.framework.hooks import nodes_that_run, refuse_bad_plan
from rao_kedro.framework.selection import OPTIONS, combined, named_runs, needed_nodes, select
from rao_kedro.framework.tracking import TrackingHooks
from rao_kedro.planning.table import plan_table

logger = logging.getLogger(__name__)

ONLY_STALE_OUTPUTS = "only_stale_outputs"  # options of `rao_kedro.cli`, which the session's store holds
DRY_RUN = "dry_run"


class StudySession(KedroSession):
    """Runs the pipelines of the runs that are asked for: by name, or those of the parameter `methods`."""

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

    def run(
        self, *args: Any, only_stale_outputs: bool | None = None, dry_run: bool | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run pipelines; see `KedroSession.run`.

        Args:
            *args: As there.
            only_stale_outputs: Run only nodes whose outputs are missing or were made from something else, and what
                depends on them; None takes what the command line says.
            dry_run: Check the plan and print it; nothing runs, and nothing is written. None as above.
            **kwargs: As there.

        Raises:
            ParameterError: Only missing and only stale outputs are asked for, or what is selected is not there.
            PlanError: The run could not go as planned.
        """
        if dry_run is None:
            dry_run = self._is_asked_for(DRY_RUN)
        if dry_run:
            self._stop_before_anything_is_written()
        options = self._options(*args, **kwargs)
        if only_stale_outputs is None:
            only_stale_outputs = self._is_asked_for(ONLY_STALE_OUTPUTS)
        if only_stale_outputs and options.get("only_missing_outputs"):
            raise ParameterError("only stale outputs are the missing ones too: ask for one of the two")
        chosen = self._chosen(options)
        catalog = self.load_context().catalog
        if only_stale_outputs:
            stale = _stale(chosen, catalog)
            for node, reasons in stale.items():
                logger.info("%s", described(node, reasons))
            if not stale:
                logger.info("nothing is stale: every output was made from what is there now")
                return {}
            chosen = chosen.only_nodes(*stale)
        elif options.get("only_missing_outputs"):
            _warn_about_what_is_not_missing(chosen, catalog)
        warn_about_stale_inputs(chosen, catalog)
        everything = combined(options["pipeline_names"] or ["__default__"], pipelines)
        if len(chosen.nodes) < len(everything.nodes):
            options["node_names"] = [node.name for node in chosen.nodes]
        try:
            return super().run(**options)
        except KeyboardInterrupt:  # of which Kedro tells no hook
            for plugin in self._hook_manager.get_plugins():
                if isinstance(plugin, TrackingHooks):
                    plugin.end("KILLED")
            raise
        except _PlanIsMade as made:
            print(plan_table(made.pipeline, made.catalog, _stale(made.pipeline, made.catalog)))
            return {}

    def _is_asked_for(self, option: str) -> bool:
        return bool(self.store.get("cli", {}).get("params", {}).get(option, False))

    def _stop_before_anything_is_written(self) -> None:
        """Stop the run once Kedro has made its pipeline and catalog; MLflow would begin an experiment before that."""
        for plugin in self._hook_manager.get_plugins():
            if isinstance(plugin, TrackingHooks):
                self._hook_manager.unregister(plugin)
        self._hook_manager.register(_DryRunHooks())

    def selected(self, **options: Any) -> Pipeline:
        """Return the nodes that `run` would run with these options, fresh or not.

        Raises:
            ParameterError: What is selected is not there.
        """
        return self._chosen(self._options(**options))

    def stale_nodes(self, **options: Any) -> Mapping[str, list[str]]:
        """Return the reasons why nodes are stale, by their names, of those that `run` would run with these options."""
        return _stale(self.selected(**options), self.load_context().catalog)

    def _options(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the options of a run by their names; the older option for one pipeline is read as the newer one."""
        options = inspect.signature(super().run).bind(*args, **kwargs).arguments
        one = options.pop("pipeline_name", None)
        return options | {"pipeline_names": [one] if one else [*(options.get("pipeline_names") or ())]}

    def _chosen(self, options: dict[str, Any]) -> Pipeline:
        """Return the nodes of a run, and take out of its options what selects them.

        Kedro is given the pipelines of exactly the chosen runs.
        """
        names = options["pipeline_names"] or ["__default__"]
        pipelines.set_requested(options["pipeline_names"] or None)  # as Kedro does: what is registered here stays
        context = self.load_context()
        selecting = {name: [*options.pop(name)] for name in OPTIONS if options.get(name)}
        every = context.pipelines_of(context.params["alignment"], benchmarks=True) if selecting else {}
        named = named_runs(selecting, combined(every, every), context.params["alignment"])
        pipelines.update(context.pipelines_of(named or context.chosen_runs))
        asked = combined(names, pipelines)
        if not selecting:
            return asked
        selected = select(selecting, names, pipelines, every)
        needed = needed_nodes(selected, asked, context.catalog.exists) if named else []
        if needed:
            run_too = ", ".join(node.name for node in needed)
            logger.info("%s: what is missing for this is made first: %s", " ".join(named), run_too)
        return selected + Pipeline(needed)


def _stale(pipeline: Pipeline, catalog: CatalogProtocol) -> dict[str, list[str]]:
    for name in edited(pipeline, catalog):
        logger.warning("%s is not what its node left: it is taken as it is", name)
    return stale_nodes(pipeline, catalog)


def _warn_about_what_is_not_missing(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    there = {node.name for node in pipeline.nodes if all(map(catalog.exists, node.outputs))}
    stale = {node: reasons for node, reasons in _stale(pipeline, catalog).items() if node in there}
    for node, reasons in stale.items():
        logger.warning("stale, but not missing: %s", described(node, reasons))
    if stale:
        logger.warning("--only-missing-outputs does not make these again: --only-stale-outputs does")


def warn_about_stale_inputs(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Say which inputs of a run, made by nodes that it does not run, were made from something else."""
    every = combined(pipelines, pipelines)
    made_elsewhere = _stems({name for name in pipeline.inputs() if catalog.exists(name)})  # else the run is refused
    made_elsewhere = {name for name in every.all_outputs() if _stems({name}) <= made_elsewhere}
    if not made_elsewhere:
        return
    for node, reasons in _stale(every.to_outputs(*made_elsewhere), catalog).items():
        if not all(reason.endswith(MADE_AGAIN) for reason in reasons):  # else another line says why
            logger.warning("this run takes what is stale: %s", described(node, reasons))


class _PlanIsMade(Exception):
    """Ends a dry run where a run would begin."""

    def __init__(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        super().__init__("the plan is made")
        self.pipeline, self.catalog = pipeline, catalog


class _DryRunHooks:
    @hook_impl(tryfirst=True)  # the last one that is registered comes first
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        pipeline = nodes_that_run(run_params, pipeline, catalog)
        refuse_bad_plan(pipeline, catalog)
        raise _PlanIsMade(pipeline, catalog)


def _stems(names: set[str]) -> set[str]:
    return {name.split("@")[0] for name in names}
