"""Kedro's parameters: each place that names a global has its own, and all are checked as a whole.

As a whole, since nodes are given only parts of a block.
"""

from copy import deepcopy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kedro.config import OmegaConfigLoader
from kedro.framework.context import KedroContext
from kedro.utils import find_kedro_project
from omegaconf import OmegaConf
from pydantic import ValidationError

from rao_kedro.errors import ParameterError
from rao_kedro.schemas.parameters import ProjectParameters

SHIPPED = Path(__file__).parent / "shipped"  # only a wheel has it: the project's own conf and prompts


def conf_in_use(conf_source: str, project: Path) -> str:
    """Return where the configuration is: in the package, where nobody named another place and the project has none."""
    is_default = Path(conf_source) == project / "conf"
    return str(SHIPPED / "conf") if is_default and not Path(conf_source).exists() else conf_source


class StudyConfigLoader(OmegaConfigLoader):
    """Gives every `${globals:...}` a copy: what `--params` changes for one method stays as it is for the others.

    `${shipped:path}` is a file that comes with this project: the one of the configuration in use or of the project, or
    where these have none, that of the installed package.
    """

    def __init__(self, conf_source: str, env: str | None = None, **how: Any) -> None:
        """Read the configuration of an environment; see `OmegaConfigLoader`.

        Raises:
            ParameterError: There is no such environment.
        """
        OmegaConf.register_new_resolver("shipped", self._shipped, replace=True)
        super().__init__(conf_source, env, **how)
        if env and not self._fs.isdir(self._get_conf_env_path(env)):
            there = sorted(Path(place).name for place in self._fs.ls(self._get_conf_env_path(""), detail=False))
            known = [name for name in there if self._fs.isfile(f"{self._get_conf_env_path(name)}/globals.yml")]
            raise ParameterError(f"there is no environment {env!r} in {conf_source}: choose one of {', '.join(known)}")

    def _shipped(self, path: str) -> str:
        folder, _, rest = path.partition("/")
        if folder == "conf" and (configured := self._configured(rest)) is not None:
            return str(configured)
        projects = (Path(self.conf_source).parent, find_kedro_project(Path.cwd()) or Path.cwd())
        in_project = any((project / path).exists() for project in projects if project != SHIPPED)
        return str(SHIPPED / path) if (SHIPPED / path).exists() and not in_project else path

    def _configured(self, path: str) -> Path | None:
        """Return a file of the configuration in use, unpacked where that is an archive; None if it has none."""
        place = self._get_conf_env_path(path)
        if self._protocol == "file":
            return Path(place) if Path(place).exists() else None
        if not self._fs.isfile(place):
            return None
        unpacked = Path(self._unpacked.name, path)
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        unpacked.write_bytes(self._fs.cat_file(place))
        return unpacked

    @cached_property
    def _unpacked(self) -> "TemporaryDirectory[str]":
        return TemporaryDirectory(prefix="rao_kedro_conf_")

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
