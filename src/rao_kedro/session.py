"""Kedro's session, except that a run takes the methods of the parameter `methods` where it is asked for no other.

And where no benchmark is chosen, it leaves out their judging and comparison. It can run only what is stale, and says
what is stale of what a run does not make again.
"""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.io import MemoryDataset
from kedro.pipeline import Pipeline

from rao_kedro.errors import ParameterError
from rao_kedro.freshness import MADE_AGAIN, described, edited, stale_nodes
from rao_kedro.hooks import left_out
from rao_kedro.pipelines.evaluation.pipeline import BENCHMARKS
from rao_kedro.pipelines.methods import METHODS, chosen_methods

logger = logging.getLogger(__name__)

ONLY_STALE_OUTPUTS = "only_stale_outputs"  # the option of `rao_kedro.cli`, which the session's store holds


class StudySession(KedroSession):
    """Leaves out the namespaces of methods that were not chosen, where no namespace, node or method tag is named."""

    _context: KedroContext | None = None

    def load_context(self) -> KedroContext:
        """Return the context, created once per session."""
        if self._context is None:
            self._context = super().load_context()
        return self._context

    def run(self, *args: Any, only_stale_outputs: bool | None = None, **kwargs: Any) -> dict[str, Any]:
        """Run pipelines; see `KedroSession.run`.

        Args:
            *args: As there.
            only_stale_outputs: Run only nodes whose outputs are missing or were made from something else, and what
                depends on them; None takes what the command line says.
            **kwargs: As there.

        Raises:
            ParameterError: Only missing and only stale outputs are asked for.
        """
        options = self._options(*args, **kwargs)
        if only_stale_outputs is None:
            only_stale_outputs = self.store.get("cli", {}).get("params", {}).get(ONLY_STALE_OUTPUTS, False)
        if only_stale_outputs and options.get("only_missing_outputs"):
            raise ParameterError("only stale outputs are the missing ones too: ask for one of the two")
        if only_stale_outputs:
            stale = self.stale_nodes(**options)
            for node, reasons in stale.items():
                logger.info("%s", described(node, reasons))
            if not stale:
                logger.info("nothing is stale: every output was made from what is there now")
                return {}
            options["node_names"] = [*stale]
        elif options.get("only_missing_outputs"):
            self._warn_about_what_is_not_missing(options)
        self._warn_about_stale_inputs(options)
        return super().run(**options)

    def stale_nodes(self, **options: Any) -> Mapping[str, list[str]]:
        """Return the reasons why nodes are stale, by their names, of those that `run` would run with these options."""
        return self._stale(self._filtered(self._options(**options)))

    def _options(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the options of a run with the methods and benchmarks that are chosen."""
        options = inspect.signature(super().run).bind(*args, **kwargs).arguments
        if not (options.get("namespaces") or options.get("node_names") or {*METHODS} & {*(options.get("tags") or ())}):
            names = options.get("pipeline_names") or [options.pop("pipeline_name", None) or "__default__"]
            names = ["study" if name == "__default__" else name for name in names]
            options["pipeline_names"] = names
            options["node_names"] = self._chosen_nodes([name for name in names if name in pipelines])
        return options

    def _chosen_nodes(self, pipeline_names: list[str]) -> list[str] | None:
        parameters = self.load_context().params
        others = set(METHODS) - set(chosen_methods(parameters["methods"]))
        left_out = set() if parameters["evaluation"].benchmarks.chosen else {BENCHMARKS}
        nodes = sum((pipelines[name] for name in pipeline_names), start=Pipeline([])).nodes
        return [node.name for node in nodes if node.namespace not in others and not node.tags & left_out]

    def _filtered(self, options: Mapping[str, Any]) -> Pipeline:
        """Return the pipeline of a run, as `KedroSession.run` filters it; empty where there is no such pipeline."""
        names = options.get("pipeline_names") or [options.get("pipeline_name") or "__default__"]
        whole = sum((pipelines[name] for name in names if name in pipelines), start=Pipeline([]))
        kept = ("tags", "from_nodes", "to_nodes", "node_names", "from_inputs", "to_outputs")
        how = {name: options.get(name) for name in kept}
        return whole.filter(**how, node_namespaces=options.get("namespaces")) if whole.nodes else whole

    def _stale(self, pipeline: Pipeline) -> dict[str, list[str]]:
        catalog = self.load_context().catalog
        for name in left_out(pipeline, catalog):
            catalog[name] = MemoryDataset(data=None)
        for name in edited(pipeline, catalog):
            logger.warning("%s is not what its node left: it is taken as it is", name)
        return stale_nodes(pipeline, catalog)

    def _warn_about_what_is_not_missing(self, options: Mapping[str, Any]) -> None:
        pipeline, catalog = self._filtered(options), self.load_context().catalog
        there = {node.name for node in pipeline.nodes if all(map(catalog.exists, node.outputs))}
        stale = {node: reasons for node, reasons in self._stale(pipeline).items() if node in there}
        for node, reasons in stale.items():
            logger.warning("stale, but not missing: %s", described(node, reasons))
        if stale:
            logger.warning("--only-missing-outputs does not make these again: --only-stale-outputs does")

    def _warn_about_stale_inputs(self, options: Mapping[str, Any]) -> None:
        """Say which inputs of a run, made by pipelines that it does not run, were made from something else."""
        pipeline = self._filtered(options)
        every = sum((pipelines[name] for name in pipelines if name != "__default__"), start=Pipeline([]))
        others = set(METHODS) - set(chosen_methods(self.load_context().params["methods"])) - _namespaces(pipeline)
        every = Pipeline([node for node in every.nodes if node.namespace not in others])
        made_elsewhere = _stems(pipeline.inputs() - left_out(pipeline, self.load_context().catalog))
        made_elsewhere = {name for name in every.all_outputs() if _stems({name}) <= made_elsewhere}
        if not made_elsewhere:
            return
        makers = every.to_outputs(*made_elsewhere)
        for node, reasons in self._stale(makers).items():
            if not all(reason.endswith(MADE_AGAIN) for reason in reasons):  # else another line says why
                logger.warning("this run takes what is stale: %s", described(node, reasons))


def _stems(names: set[str]) -> set[str]:
    return {name.split("@")[0] for name in names}


def _namespaces(pipeline: Pipeline) -> set[str]:
    return {str(node.namespace) for node in pipeline.nodes}
