"""Kedro's session, except that a run takes the methods of the parameter `methods` where it is asked for no other.

And where no benchmark is chosen, it leaves out their judging and comparison.
"""

import inspect
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.pipeline import Pipeline

from rao_kedro.pipelines.evaluation.pipeline import BENCHMARKS
from rao_kedro.pipelines.methods import METHODS, chosen_methods


class StudySession(KedroSession):
    """Leaves out the namespaces of methods that were not chosen, where no namespace, node or method tag is named."""

    _context: KedroContext | None = None

    def load_context(self) -> KedroContext:
        """Return the context, created once per session."""
        if self._context is None:
            self._context = super().load_context()
        return self._context

    def run(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run pipelines; see `KedroSession.run`."""
        options = inspect.signature(super().run).bind(*args, **kwargs).arguments
        if not (options.get("namespaces") or options.get("node_names") or {*METHODS} & {*(options.get("tags") or ())}):
            names = options.get("pipeline_names") or [options.pop("pipeline_name", None) or "__default__"]
            names = ["study" if name == "__default__" else name for name in names]
            options["pipeline_names"] = names
            options["node_names"] = self._chosen_nodes([name for name in names if name in pipelines])
        return super().run(**options)

    def _chosen_nodes(self, pipeline_names: list[str]) -> list[str] | None:
        parameters = self.load_context().params
        others = set(METHODS) - set(chosen_methods(parameters["methods"]))
        left_out = set() if parameters["evaluation"].benchmarks.names.strip() else {BENCHMARKS}
        nodes = sum((pipelines[name] for name in pipeline_names), start=Pipeline([])).nodes
        return [node.name for node in nodes if node.namespace not in others and not node.tags & left_out]
