"""A policy is published with its card: a folder on disk, and a push to a server that answers as the hub does."""

import json
import os

import pytest
from hub_server import hub_server
from huggingface_hub import constants

from rao_kedro.config.publish import PublishParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.errors import ParameterError, RaoKedroError
from rao_kedro.pipelines.publish.nodes import assemble_model, push

PUSHED = PublishParameters(push=True, repository="owner/tiny-{run}")


@pytest.fixture
def hub(monkeypatch):
    """Let the client of the hub speak to a server of the test."""

    def speak_to(address, token="hf_secret"):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", token)

    return speak_to


@pytest.fixture
def model(tmp_path):
    """A folder that looks like a published model."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# rao\n")
    return folder


def test_the_folder_has_the_policys_files_without_copies_and_the_card_in_place_of_its_readme(tmp_path):
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    (policy / "model.safetensors").write_bytes(b"weights")
    (policy / "README.md").write_text("the card of the base model")
    workers = WorkerParameters(accelerate_config="cpu.yaml", workspaces=tmp_path / "workspaces", in_process=True)
    folder = assemble_model(policy, "# the card of the policy", workers, run="rao")
    assert (folder / "README.md").read_text() == "# the card of the policy"
    assert (policy / "README.md").read_text() == "the card of the base model"
    assert os.path.samefile(folder / "model.safetensors", policy / "model.safetensors")


def test_without_push_nothing_is_sent_and_the_report_says_what_would_be(model, hub):
    with hub_server() as (address, taken):
        hub(address)
        report = push(model, PublishParameters(repository="owner/tiny-{run}"), run="rao")
    assert report["repository"] == "owner/tiny-rao" and not report["pushed"] and report["commit"] is None
    assert report["files"] == {name: (model / name).stat().st_size for name in sorted(os.listdir(model))}
    assert taken == {"repositories": [], "files": {}, "authorization": set()}


def test_a_push_creates_a_private_repository_and_commits_every_file(model, hub):
    with hub_server() as (address, taken):
        hub(address)
        report = push(model, PUSHED, run="rao")
    assert report["pushed"] and report["commit"] == "https://huggingface.co/owner/model/commit/abc"
    assert taken["files"] == {name: (model / name).read_bytes() for name in os.listdir(model)}
    [repository] = taken["repositories"]
    assert (repository["organization"], repository["name"]) == ("owner", "tiny-rao")
    assert repository.get("private") is True or repository.get("visibility") == "private"
    assert "hf_secret" not in json.dumps(report)


def test_what_the_hub_refuses_is_an_error_with_its_reason(model, hub):
    with hub_server(refusal=(403, "you may not write here")) as (address, _):
        hub(address)
        with pytest.raises(RaoKedroError, match=r"(?s)rao could not be pushed to owner/tiny-rao: .*403"):
            push(model, PUSHED, run="rao")


def test_a_push_without_a_token_is_refused(model, hub, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hub("http://127.0.0.1:9", token="")
    with pytest.raises(ParameterError, match="there is no token of the hub: set HF_TOKEN"):
        push(model, PUSHED, run="rao")


def test_a_push_without_a_repository_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"publish\.repository names no repository"):
        PublishParameters(push=True)
