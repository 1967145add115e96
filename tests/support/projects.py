"""Projects of their own for tests that run pipelines: this project's configuration in another directory."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project

from rao_kedro.framework.session import StudySession

ROOT = Path(__file__).parents[2]


@contextmanager
def open_project(directory):
    """Copy the configuration and the prompts into a directory, and make it Kedro's project and the current one."""
    shutil.copytree(ROOT / "conf", directory / "conf")
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "data/01_raw").mkdir(parents=True)
    shutil.copy(ROOT / "data/01_raw/prompts.jsonl", directory / "data/01_raw")
    (directory / "src").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(directory)
        bootstrap_project(directory)
        configure_project("rao_kedro")
        end_tracking()
        yield directory
    end_tracking()


def end_tracking():
    """End MLflow's run, as the end of a process does: the parameters of a run cannot change."""
    while mlflow.active_run():
        mlflow.end_run()


def run(project, *pipelines, env="test", params=None, **options):
    """Run pipelines as a process of their own would; return their outputs."""
    end_tracking()
    with StudySession.create(project, env=env, runtime_params=params) as session:
        return session.run(pipeline_names=[*pipelines] or None, **options)
