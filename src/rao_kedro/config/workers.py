"""How nodes start workers, and where workers keep unfinished work."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator

from rao_kedro.config.base import Parameters
from rao_kedro.files import only_one_in


def _refuse_remote(value: object) -> object:
    protocol, separator, path = str(value).partition("://")
    if not separator:
        return value
    if protocol == "file":
        return path
    raise ValueError(
        f"{value} is not on this machine, and workers write into their workspaces file by file: set `workspaces` in "
        "globals.yml to a local directory"
    )


class WorkerParameters(Parameters):
    """How workers are started; it changes no result.

    Attributes:
        accelerate_config: YAML file of `accelerate launch`, which says how many processes compute and on what.
        ppo_accelerate_config: The same for PPO, which samples from its policy and so cannot train a sharded one;
            `accelerate_config` if not set.
        in_process: Runs every worker inside the process of the pipeline, without accelerate: for tests and debugging.
        workspaces: Local root of the directories in which workers keep what a killed run resumes from.
    """

    accelerate_config: Path
    ppo_accelerate_config: Path | None = None
    in_process: bool = False
    workspaces: Annotated[Path, BeforeValidator(_refuse_remote)]

    def workspace(self, name: str) -> Path:
        """Return the directory for the unfinished work of a node; it is created where it does not exist."""
        directory = self.workspaces / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    @contextmanager
    def reserve(self, name: str, wait: bool = False) -> Iterator[Path]:
        """Yield a workspace that no other node may reserve until the end.

        For nodes that write into it themselves; launchers and workers take locks of their own.

        Args:
            name: Name of the workspace.
            wait: Wait for another run that has reserved it: for work that runs share.

        Raises:
            BusyError: Another run has reserved it, and it is not waited for.
        """
        directory = self.workspace(name)
        with only_one_in(directory, "node", wait):
            yield directory

    def in_project(self, project: Path) -> Self:
        """Return the parameters with relative paths taken from the project's directory, not the current one."""
        names = ("accelerate_config", "ppo_accelerate_config", "workspaces")
        paths = {name: project / path for name in names if (path := getattr(self, name)) is not None}
        return self.model_copy(update=paths)

    def for_ppo(self) -> Self:
        """Return how PPO is started."""
        return self.model_copy(update={"accelerate_config": self.ppo_accelerate_config or self.accelerate_config})
