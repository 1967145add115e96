"""Where workers keep their work."""

import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from rao_kedro.config.workers import WorkerParameters
from rao_kedro.errors import BusyError


def parameters(workspaces):
    return WorkerParameters(accelerate_config="conf/accelerate/cpu.yaml", workspaces=workspaces)


@pytest.mark.parametrize("place", ["s3://bucket/work", "memory://work"])
def test_workspaces_are_on_this_machine(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValidationError, match=f"{place} is not on this machine.*set `workspaces` in globals.yml"):
        parameters(place)
    assert parameters(f"file://{tmp_path}/work").workspaces == tmp_path / "work"
    assert [*tmp_path.iterdir()] == []


def test_a_workspace_is_created_and_reserved_for_one_node_at_a_time(tmp_path):
    workers = parameters(tmp_path)
    with workers.reserve("evaluation/rao") as workspace:
        assert workspace == tmp_path / "evaluation/rao" and workspace.is_dir()
        with (
            pytest.raises(BusyError, match="another run is at work in"),
            workers.reserve("evaluation/rao"),
        ):
            pytest.fail("two nodes have it")
        with workers.reserve("evaluation/dpo"):  # another one is free
            assert workers.workspace("evaluation/rao") == workspace  # launchers and workers lock for themselves
    with workers.reserve("evaluation/rao"):
        pass


def test_a_node_of_work_that_runs_share_waits_for_the_one_that_does_it(tmp_path):
    workers, done = parameters(tmp_path), []

    def another():
        with workers.reserve("generations/a", wait=True):
            done.append("another")

    with workers.reserve("generations/a"):
        (thread := threading.Thread(target=another)).start()
        thread.join(0.2)
        assert thread.is_alive()
        done.append("first")
    thread.join(10)
    assert done == ["first", "another"]


def test_relative_paths_are_those_of_the_project(tmp_path):
    found = parameters("data/workspaces").in_project(tmp_path)
    assert (found.accelerate_config, found.workspaces) == (
        tmp_path / "conf/accelerate/cpu.yaml",
        tmp_path / "data/workspaces",
    )
    assert found.for_ppo() == found
    own = found.model_copy(update={"ppo_accelerate_config": Path("ddp.yaml")}).in_project(tmp_path)
    assert own.for_ppo().accelerate_config == tmp_path / "ddp.yaml"
    assert parameters("/scratch").in_project(Path("/project")).workspaces == Path("/scratch")
