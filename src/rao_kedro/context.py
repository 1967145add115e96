"""Kedro's parameters: each place that names a global has its own, and all are checked as a whole.

As a whole, since nodes are given only parts of a block.
"""

from copy import deepcopy
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.context import KedroContext
from pydantic import ValidationError

from rao_kedro.errors import ParameterError
from rao_kedro.schemas.parameters import ProjectParameters


class StudyConfigLoader(OmegaConfigLoader):
    """Gives every `${globals:...}` a copy: what `--params` changes for one method stays as it is for the others."""

    def _get_globals_value(self, *args: Any) -> Any:
        return deepcopy(super()._get_globals_value(*args))


class StudyContext(KedroContext):
    """Refuses an unknown name and a wrong value at any depth, whichever pipeline runs, and fills in defaults."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters, each block as its pydantic model.

        Raises:
            ParameterError: Names every parameter that is wrong.
        """
        try:
            checked = ProjectParameters.model_validate(super().params)
        except ValidationError as error:
            wrong = (f"parameter {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ParameterError("\n".join(wrong)) from error
        return {name: getattr(checked, name) for name in ProjectParameters.model_fields}
