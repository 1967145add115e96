"""A published checkpoint and the worker's own: one set of weights on disk, and no small file in common."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from kedro.io import DatasetError, Version

from rao_kedro.datasets import CheckpointDataset


@pytest.fixture
def finished(tmp_path):
    directory = tmp_path / "workspaces/rao/model"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text("weights")
    (directory / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    (tmp_path / "elsewhere.json").write_text("tokens")
    return directory


def test_publishing_leaves_the_workspace_its_model_and_takes_no_second_copy_of_the_weights(finished, tmp_path):
    dataset = CheckpointDataset(filepath=str(tmp_path / "rao"))
    assert not dataset.exists()
    dataset.save(finished)
    published = dataset.load()
    assert (published / "model.safetensors").samefile(finished / "model.safetensors")
    assert (published / "tokenizer.json").readlink() == tmp_path / "elsewhere.json"
    (published / "config.json").write_text("edited in place")
    assert (finished / "config.json").read_text() == "{}"
    # The next run writes another model into the workspace; what is published stays until that is saved.
    (finished / "model.safetensors").unlink()
    (finished / "model.safetensors").write_text("new weights")
    assert (published / "model.safetensors").read_text() == "weights"
    dataset.save(finished)
    assert {path.name for path in published.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (published / "model.safetensors").read_text() == "new weights" and len(list(tmp_path.glob("rao*"))) == 1


def refused(code):
    def fail(source, target):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EACCES])
def test_weights_are_copied_where_the_file_system_makes_no_links(finished, tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "link", refused(code))
    monkeypatch.setattr(os, "symlink", refused(code))
    CheckpointDataset(filepath=str(tmp_path / "rao")).save(finished)
    assert (tmp_path / "rao/model.safetensors").read_text() == "weights"
    assert (tmp_path / "rao/tokenizer.json").read_text() == "tokens"


def test_a_full_disk_is_said_and_the_old_checkpoint_stays(finished, tmp_path, monkeypatch):
    dataset = CheckpointDataset(filepath=str(tmp_path / "rao"))
    dataset.save(finished)
    monkeypatch.setattr(os, "link", refused(errno.ENOSPC))
    monkeypatch.setattr(shutil, "copyfile", refused(errno.ENOSPC))
    with pytest.raises(DatasetError, match="No space left"):
        dataset.save(finished)
    assert (dataset.load() / "model.safetensors").read_text() == "weights"


def test_a_link_to_a_large_disk_stays_a_link_however_often_a_checkpoint_is_published(finished, tmp_path):
    (tmp_path / "large_disk/rao").mkdir(parents=True)
    (tmp_path / "06_models").mkdir()
    (tmp_path / "06_models/rao").symlink_to(tmp_path / "large_disk/rao")
    dataset = CheckpointDataset(filepath=str(tmp_path / "06_models/rao"))
    for _ in range(2):
        dataset.save(finished)
        assert (tmp_path / "06_models/rao").is_symlink()
        assert (tmp_path / "large_disk/rao/model.safetensors").samefile(finished / "model.safetensors")


def test_links_inside_a_checkpoint_do_not_dangle_once_it_is_published(finished, tmp_path):
    (finished / "chat_template.jinja").symlink_to("config.json")
    (finished / "vocab.json").symlink_to("../../../elsewhere.json")
    CheckpointDataset(filepath=str(tmp_path / "away/rao")).save(finished)
    published = tmp_path / "away/rao"
    assert (published / "vocab.json").read_text() == "tokens"
    (finished / "config.json").unlink()
    assert (published / "chat_template.jinja").read_text() == "{}"


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system is known")
def test_a_checkpoint_is_published_on_another_file_system(finished):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        dataset = CheckpointDataset(filepath=f"{directory}/rao")
        for _ in range(2):
            dataset.save(finished)
        assert {path.name for path in dataset.load().iterdir()} == {path.name for path in finished.iterdir()}
        assert not (dataset.load() / "model.safetensors").samefile(finished / "model.safetensors")


def test_versions_of_a_checkpoint_stay_beside_each_other(finished, tmp_path):
    for version in ("2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"):
        (finished / "config.json").write_text(version)
        CheckpointDataset(filepath=str(tmp_path / "rao"), version=Version(None, version)).save(finished)
    (tmp_path / "rao/2026-01-03T00.00.00.000Z/rao").mkdir(parents=True)  # without config.json it is none
    latest, first = (
        CheckpointDataset(filepath=str(tmp_path / "rao"), version=Version(load, None))
        for load in (None, "2026-01-01T00.00.00.000Z")
    )
    assert (latest.load() / "config.json").read_text().startswith("2026-01-02")
    assert (first.load() / "config.json").read_text().startswith("2026-01-01")
    assert not CheckpointDataset(filepath=str(tmp_path / "dpo"), version=Version(None, None)).exists()
