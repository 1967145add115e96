"""Kedro's context, whose parameters are checked as a whole, since nodes are given only parts of a block."""

from functools import cached_property
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rao_kedro.config.globals import GlobalParameters
from rao_kedro.config.parameter_errors import nearest, sentence, unknown_name
from rao_kedro.errors import ParameterError
from rao_kedro.framework.choose_runs import choose_runs
from rao_kedro.framework.config_loader import StudyConfigLoader
from rao_kedro.pipeline_registry import build_pipelines
from rao_kedro.pipelines.parameters import ProjectParameters
from rao_kedro.pipelines.runs import METHODS


class StudyContext(KedroContext):
    """Refuses unknown names and wrong values of parameters at any depth, whichever pipeline runs, and sets defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Load the parameters, and register the pipelines of the runs that they choose with Kedro."""
        super().__init__(*args, **kwargs)
        pipelines.update(build_pipelines(choose_runs(self.params)))

    @cached_property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        """The parameters, each block as its pydantic model; `alignment` has a block for each run of a method.

        Raises:
            ParameterError: Names every parameter that is wrong.
        """
        # Kedro's own check reads the annotations of nodes: it finds less, and says it at length.
        globals_, wrong = self._wrong_globals()
        # A wrong global is wrong in every place that takes it, and is named once.
        said = {_same_as(detail) for detail in globals_}
        try:
            checked = ProjectParameters.model_validate(self.config_loader["parameters"])
        except ValidationError as error:
            details = [d for d in error.errors() if _same_as(d) not in said]
            details = [d for d in details if not (said and d["type"] == "value_error")]
            unknown = _unknown_methods({str(d["loc"][1]) for d in details if d["loc"][0] == "alignment"})
            details = [d for d in details if d["loc"][:1] != ("alignment",) or d["loc"][1] not in unknown]
            wrong += [sentence(detail, ProjectParameters, GlobalParameters) for detail in details]
            raise ParameterError("\n".join([*wrong, *unknown.values()])) from error
        if wrong := [*wrong, *_unknown_methods({*checked.alignment}).values()]:
            raise ParameterError("\n".join(wrong))
        runs = {name: run for method, block in checked.alignment.items() for name, run in block.runs(method).items()}
        derived = {"alignment": runs, "workers": checked.workers.in_project(Path(self.project_path))}
        return {name: getattr(checked, name) for name in ProjectParameters.model_fields} | derived

    def _wrong_globals(self) -> tuple[list[ErrorDetails], list[str]]:
        """Return what is wrong with globals: pydantic's details, and sentences."""
        assert isinstance(self.config_loader, StudyConfigLoader)
        found = self.config_loader["globals"]
        try:
            GlobalParameters.model_validate(found)
            details = []
        except ValidationError as error:
            details = [d for d in error.errors() if not self.config_loader.refers_to_another(*d["loc"])]
        unused = [] if {*found} <= {*GlobalParameters.model_fields} else sorted(self.config_loader.unused_globals())
        return details, [
            *(sentence(detail, GlobalParameters) for detail in details),
            *(f"globals.yml: {unknown_name([name], GlobalParameters)}" for name in unused),
        ]


def _same_as(detail: ErrorDetails) -> tuple[str, str]:
    """Return what an error of a parameter has in common with the error of the global that it takes its value from."""
    unknown = detail["type"] == "extra_forbidden"
    return detail["type"], str(detail["loc"][-1]) if unknown else repr(detail["input"])


def _unknown_methods(names: set[str]) -> dict[str, str]:
    """Return the sentences that refuse blocks of methods that are none, by their names."""
    unknown, known = sorted(names - {*METHODS}), {*METHODS}
    return {name: f"there is no method {name}: {nearest(name, ['alignment'], known)}" for name in unknown}
