"""A published checkpoint and the worker's own: one set of weights on disk, and no small file in common."""

import errno
import os

import pytest
from kedro.io import DatasetError

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


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSPC])
def test_weights_are_copied_where_there_are_no_hard_links_and_a_full_disk_is_not_that(
    finished, tmp_path, monkeypatch, code
):
    def refused(source, target):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    dataset = CheckpointDataset(filepath=str(tmp_path / "rao"))
    if code == errno.ENOSPC:
        with pytest.raises(DatasetError, match="No space left"):
            dataset.save(finished)
        assert not dataset.exists()
    else:
        dataset.save(finished)
        assert (tmp_path / "rao/model.safetensors").read_text() == "weights"
