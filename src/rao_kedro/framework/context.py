"""Kedro's configuration loader and context: globals in `--params`, and parameters that are checked as a whole.

As a whole, since nodes are given only parts of a block. A global that `--params` gives counts wherever it is used.
"""

from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.framework.context import KedroContext
from kedro.framework.project import pipelines
from kedro.utils import find_kedro_project
from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rao_kedro.config.globals import GlobalParameters
from rao_kedro.config.parameter_errors import nearest, sentence, unknown_name
from rao_kedro.config.parameters import ProjectParameters
from rao_kedro.errors import ParameterError
from rao_kedro.framework.runs import choose_runs
from rao_kedro.pipeline_registry import build_pipelines
from rao_kedro.pipelines.methods import METHODS

RUNTIME = Path("--params")  # where a value came from, beside the files of globals
SHIPPED = Path(__file__).parents[1] / "shipped"  # only a wheel has it: the project's own conf and prompts


def conf_in_use(conf_source: str, project: Path) -> str:
    """Return where the configuration is: in the package, where nobody named another place and the project has none."""
    is_default = Path(conf_source) == project / "conf"
    return str(SHIPPED / "conf") if is_default and not Path(conf_source).exists() else conf_source


class StudyConfigLoader(OmegaConfigLoader):
    """Takes globals from the runtime parameters, too, and gives every `${globals:...}` a copy.

    A copy, so that what `--params` changes for one method stays as it is for the others. `${shipped:path}` is a file
    that comes with this project: the one of the configuration in use or of the project, or where these have none, that
    of the installed package.
    """

    def __init__(self, conf_source: str, env: str | None = None, **how: Any) -> None:
        """Read the configuration of an environment; see `OmegaConfigLoader`.

        Raises:
            ParameterError: There is no such environment.
        """
        self.interpolated: set[str] = set()
        OmegaConf.register_new_resolver("shipped", self._shipped, replace=True)
        super().__init__(conf_source, env, **how)
        if env and not self._fs.isdir(self._get_conf_env_path(env)):
            there = sorted(Path(place).name for place in self._fs.ls(self._get_conf_env_path(""), detail=False))
            known = [name for name in there if self._fs.isfile(f"{self._get_conf_env_path(name)}/globals.yml")]
            raise ParameterError(f"there is no environment {env!r} in {conf_source}: choose one of {', '.join(known)}")

    def unused_globals(self) -> set[str]:
        """Return the globals that neither this project knows nor any configuration uses."""
        for key in self.config_patterns:
            with suppress(MissingConfigException):
                self[key]
        return {*self["globals"]} - {*GlobalParameters.model_fields} - self.interpolated

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

    def _get_globals_value(self, variable: str, *default: Any) -> Any:
        self.interpolated.add(variable.split(".")[0])
        return deepcopy(super()._get_globals_value(variable, *default))

    def _resolve_from_raw_config(
        self,
        key: str,
        base_configs: dict[Path, DictConfig],
        env_configs: dict[Path, DictConfig],
        *rest: Any,
    ) -> dict[str, Any]:
        if key == "globals" and self.runtime_params:
            known = {name for config in (*base_configs.values(), *env_configs.values()) for name in config}
            known |= {*GlobalParameters.model_fields}  # some have a default, and are in no file
            given = {name: value for name, value in self.runtime_params.items() if name in known}
            runtime = {RUNTIME: OmegaConf.create(given)}
            base_configs, env_configs = base_configs | runtime, env_configs | runtime
        return super()._resolve_from_raw_config(key, base_configs, env_configs, *rest)

    def _merge_and_resolve(self, key: str, config_per_file: dict[Path, DictConfig]) -> dict[str, Any]:
        in_files = {name for config in config_per_file.values() for name in config}  # merging adds to them
        merged: dict[str, Any] = super()._merge_and_resolve(key, config_per_file)
        if key != "parameters":
            return merged
        return {name: value for name, value in merged.items() if name in in_files or name not in self._globals}


class StudyContext(KedroContext):
    """Refuses an unknown name and a wrong value at any depth, whichever pipeline runs, and fills in defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Load the parameters, and put the pipelines of their runs where Kedro, kedro-viz and notebooks find them."""
        super().__init__(*args, **kwargs)
        pipelines.update(build_pipelines(choose_runs(self.params)))

    @cached_property
    def params(self) -> dict[str, Any]:  # type: ignore[override]
        """The parameters, each block as its pydantic model; `alignment` has a block for each run of a method.

        Raises:
            ParameterError: Names every parameter that is wrong.
        """
        # Kedro's own check, of what nodes annotate, would find less and say it at length.
        globals_, wrong = self._wrong_globals()
        # What is wrong with a global is wrong in all places that take it.
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
        """Return what is wrong with globals, as pydantic says it and in sentences."""
        assert isinstance(self.config_loader, StudyConfigLoader)
        found = self.config_loader["globals"]
        try:
            GlobalParameters.model_validate(found)
            details = []
        except ValidationError as error:
            details = error.errors()
        unused = [] if {*found} <= {*GlobalParameters.model_fields} else sorted(self.config_loader.unused_globals())
        return details, [
            *(sentence(detail, GlobalParameters) for detail in details),
            *(f"globals.yml: {unknown_name([name], GlobalParameters)}" for name in unused),
        ]


def _same_as(detail: ErrorDetails) -> tuple[str, str]:
    """Return what an error has in common with that of the global whose value it is about."""
    unknown = detail["type"] == "extra_forbidden"
    return detail["type"], str(detail["loc"][-1]) if unknown else repr(detail["input"])


def _unknown_methods(names: set[str]) -> dict[str, str]:
    """Return the sentences that refuse blocks of methods that are none, by their names."""
    unknown, known = sorted(names - {*METHODS}), {*METHODS}
    return {name: f"there is no method {name}: {nearest(name, ['alignment'], known)}" for name in unknown}
