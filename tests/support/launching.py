"""Workers that run inside the process of a test."""

from pathlib import Path

from rao_kedro.config.workers import WorkerParameters


def workers_in(directory):
    return WorkerParameters(accelerate_config=Path("none.yaml"), in_process=True, workspaces=directory)


IN_PROCESS = workers_in(Path("none"))  # for `launch` itself, whose specs name their own directories
