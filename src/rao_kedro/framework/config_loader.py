"""Kedro's configuration loader. Environments can build on each other, and `--params` can set globals.

Knows the files and names of the configuration, and nothing of what a value means.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kedro.config import MissingConfigException, OmegaConfigLoader
from kedro.utils import find_kedro_project
from omegaconf import DictConfig, OmegaConf

from rao_kedro.config.globals import GlobalParameters
from rao_kedro.errors import ParameterError

SHIPPED = Path(__file__).parents[1] / "shipped"  # only a wheel has it: the project's own conf and prompts
GLOBALS = "globals.yml"
EXTENDS = "extends"  # in globals.yml: the environment that this one builds on


def conf_in_use(conf_source: str, project: Path) -> str:
    """Return the configuration source: the package's own if the project has none and the user named no other."""
    is_default = Path(conf_source) == project / "conf"
    return str(SHIPPED / "conf") if is_default and not Path(conf_source).exists() else conf_source


class StudyConfigLoader(OmegaConfigLoader):
    """Reads base, the environments that `extends` names, and the environment of the run; a later one overrides.

    Globals are merged before they are interpolated, so that a value that an environment or `--params` overrides counts
    in every global that refers to it. Where `model` is a string, the block of this name in `models` is merged into the
    globals in its place.

    Resolvers for the files of the configuration:

    - `${globals:name}` gives a copy, so that what `--params` changes for one method stays as it is for the others.
    - `${merge:block,block}` is the first block with the values of the later ones in it.
    - `${inverse:number}` is 1 over the number.
    - `${shipped:path}` is a file that comes with this project: that of the configuration in use or of the project, or
      where these have none, that of the installed package.
    """

    def __init__(self, conf_source: str, env: str | None = None, **how: Any) -> None:
        """Read the configuration of an environment; see `OmegaConfigLoader`.

        Raises:
            ParameterError: The environment, the one that it extends, or the model does not exist, or
                environments extend each other in a circle.
        """
        self.interpolated: set[str] = set()
        OmegaConf.register_new_resolver("shipped", self._shipped, replace=True)
        OmegaConf.register_new_resolver("merge", OmegaConf.merge, replace=True)
        OmegaConf.register_new_resolver("inverse", _inverse, replace=True)
        super().__init__(conf_source, env, **how)
        if env:
            self._refuse_unknown(env, named_by="")
        # From here on, the name of a model in --params is replaced by its block, for globals and parameters alike.
        self["globals"] = self._globals
        if isinstance((self.runtime_params or {}).get("model"), str) and self._globals.get("models"):
            self.runtime_params = {**self.runtime_params, "model": self._globals["model"]}

    def unused_globals(self) -> set[str]:
        """Return the globals that are unknown to this project and used by no configuration."""
        for key in self.config_patterns:
            with suppress(MissingConfigException):
                self[key]
        return {*self["globals"]} - {*GlobalParameters.model_fields} - self.interpolated

    def refers_to_another(self, *loc: int | str) -> bool:
        """Return whether a global is written as a reference to another one."""
        block = OmegaConf.select(self._globals_as_written, ".".join(map(str, loc[:-1]))) if loc[1:] else None
        return OmegaConf.is_interpolation(self._globals_as_written if block is None else block, loc[-1])

    @cached_property
    def environments(self) -> list[str]:
        """The environments between base and this one, and this one; a later one overrides.

        Raises:
            ParameterError: `extends` names no environment, or the environments extend each other in a circle.
        """
        chain = [self.env or self.default_run_env]
        while chain[-1] != self.base_env and (parent := self._extended_by(chain[-1])) is not None:
            self._refuse_unknown(parent, named_by=chain[-1])
            if parent in chain:
                circle = " extends ".join([*chain[chain.index(parent) :], parent])
                raise ParameterError(f"environments extend each other in a circle: {circle}. Take one `extends` away")
            chain.append(parent)
        return [name for name in reversed(chain) if name != self.base_env]

    def _extended_by(self, env: str) -> str | None:
        """Return what the `globals.yml` of an environment says that it extends."""
        path = self._get_conf_env_path(env)
        if not self._fs.isdir(path):
            return None
        found = self._read_dir_configs(path, [GLOBALS], "globals", set())
        parents = [config[EXTENDS] for config in found.values() if EXTENDS in config]
        if parents and not isinstance(parents[0], str):
            raise ParameterError(f"conf/{env}/{GLOBALS}: {EXTENDS} takes the name of one environment, not {parents[0]}")
        return parents[0] if parents else None

    def _refuse_unknown(self, env: str, named_by: str) -> None:
        if self._fs.isdir(self._get_conf_env_path(env)):
            return
        there = sorted(Path(place).name for place in self._fs.ls(self._get_conf_env_path(""), detail=False))
        known = ", ".join(name for name in there if self._fs.isfile(f"{self._get_conf_env_path(name)}/{GLOBALS}"))
        place = f"conf/{named_by}/{GLOBALS}: {EXTENDS}: " if named_by else ""
        raise ParameterError(f"{place}there is no environment {env!r} in {self.conf_source}: choose one of {known}")

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
        base_path: str,
        env_path: str,
        processed_files: set[Path],
    ) -> dict[str, Any]:
        between = {
            path: self._read_dir_configs(path, self.config_patterns[key], key, processed_files, key == "credentials")
            for path in map(self._get_conf_env_path, self.environments[:-1])
        }
        if key == "globals":
            return self._resolve_globals([base_configs, *between.values(), env_configs])
        resolved = super()._resolve_from_raw_config(key, base_configs, {}, base_path, env_path, processed_files)
        for path, configs in (between | {env_path: env_configs}).items():
            resolved = self._merge_configs(resolved, self._merge_and_resolve(key, configs), key, path)
        return resolved

    def _resolve_globals(self, files_by_layer: Sequence[Mapping[Path, DictConfig]]) -> dict[str, Any]:
        OmegaConf.clear_resolver("runtime_params")  # as Kedro does: globals are what --params refers to
        layers = [_plain(OmegaConf.merge({}, *files.values())) for files in files_by_layer]
        known = {name for layer in layers for name in layer} - {EXTENDS} | {*GlobalParameters.model_fields}
        given = {name: value for name, value in (self.runtime_params or {}).items() if name in known}
        self._globals_as_written = OmegaConf.merge(*self._with_picked_model([*layers, given]))
        resolved = _plain(self._globals_as_written, resolve=True)
        return {name: value for name, value in resolved.items() if name != EXTENDS and not name.startswith("_")}

    def _with_picked_model(self, layers: list[dict[str, Any]]) -> list[Any]:
        """Return the layers, each with its block of `models` for the picked model merged into it."""
        names = [layer["model"] for layer in layers if isinstance(layer.get("model"), str)]
        known = sorted({name for layer in layers for name in layer.get("models") or {}})
        if not names or not known:
            return layers
        if (picked := names[-1]) not in known:
            raise ParameterError(
                f"there is no model {picked!r} in the environment {self.environments[-1]}: choose one of "
                f"{', '.join(known)}, or add a block for it to `models` in globals.yml"
            )
        without_name = [{k: v for k, v in layer.items() if k != "model" or v not in names} for layer in layers]
        blocks = [(layer.get("models") or {}).get(picked) or {} for layer in layers]
        return [OmegaConf.merge(layer, block) for layer, block in zip(without_name, blocks, strict=True)]

    def _merge_and_resolve(self, key: str, config_per_file: dict[Path, DictConfig]) -> dict[str, Any]:
        in_files = {name for config in config_per_file.values() for name in config}  # merging adds to them
        merged: dict[str, Any] = super()._merge_and_resolve(key, config_per_file)
        if key != "parameters":
            return merged
        of_parameters = (name for name in merged if name in in_files or name not in self._globals)
        return {name: merged[name] for name in of_parameters if not name.startswith("_")}


def _inverse(number: object) -> object:
    """Return 1 over a number; anything else stays as it is, since the checks of parameters refuse it."""
    return 1 / number if isinstance(number, int | float) and number else number


def _plain(config: Any, resolve: bool = False) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(container, dict)
    return {str(name): value for name, value in container.items()}
