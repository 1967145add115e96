"""Kedro's parameters: each place that names a global has its own, and all are checked as a whole.

As a whole, since nodes are given only parts of a block. What they say of methods makes the pipelines: exactly the runs
that the parameter `methods` chooses, with the inputs that their objectives need.
"""

from collections.abc import Iterable
from copy import deepcopy
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline
from pydantic import ValidationError

from rao_kedro.errors import ParameterError
from rao_kedro.pipeline_registry import build_pipelines
from rao_kedro.pipelines.methods import METHODS, chosen_methods, runs_of
from rao_kedro.schemas.parameters import ProjectParameters


class StudyConfigLoader(OmegaConfigLoader):
    """Gives every `${globals:...}` a copy: what `--params` changes for one method stays as it is for the others."""

    def _get_globals_value(self, *args: Any) -> Any:
        return deepcopy(super()._get_globals_value(*args))


class StudyContext(KedroContext):
    """Refuses an unknown name and a wrong value at any depth, whichever pipeline runs, and fills in defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Load the parameters, and put the pipelines of their runs where Kedro, kedro-viz and notebooks find them."""
        super().__init__(*args, **kwargs)
        pipelines.update(self.pipelines_of(self.chosen_runs))

    @cached_property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        """The parameters, each block as its pydantic model; `alignment` has a block for each run of a method.

        Kedro would check blocks against the annotations of nodes, one by one; here all are checked, with one message.

        Raises:
            ParameterError: Names every parameter that is wrong.
        """
        try:
            checked = ProjectParameters.model_validate(self.config_loader["parameters"])
        except ValidationError as error:
            wrong = (f"parameter {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ParameterError("\n".join(wrong)) from error
        if unknown := sorted({*checked.alignment} - {*METHODS}):
            nearest = get_close_matches(unknown[0], METHODS) or METHODS
            raise ParameterError(f"parameter alignment.{unknown[0]}: no such method; choose from {' '.join(nearest)}")
        runs = {name: run for method, block in checked.alignment.items() for name, run in block.runs(method).items()}
        return {name: getattr(checked, name) for name in ProjectParameters.model_fields} | {"alignment": runs}

    @property
    def chosen_runs(self) -> list[str]:
        """The runs of the parameter `methods`.

        Raises:
            ParameterError: It names an unknown method, or none.
        """
        return runs_of(chosen_methods(self.params["methods"]), self.params["alignment"])

    def pipelines_of(self, runs: Iterable[str], benchmarks: bool | None = None) -> dict[str, Pipeline]:
        """Return the pipelines for exactly these runs.

        Args:
            runs: Names of runs.
            benchmarks: Whether answers to benchmarks are judged and compared; None if any is chosen.
        """
        parameters = self.params
        if benchmarks is None:
            benchmarks = bool(parameters["evaluation"].benchmarks.names.strip())
        return build_pipelines({run: parameters["alignment"][run].objective for run in runs}, benchmarks)
