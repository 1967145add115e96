"""What cannot be run is refused before anything is made, in a sentence that names it."""

import os
import shutil
import subprocess
import sys

import pytest
from projects import ROOT, run
from transformers import AutoModelForCausalLM, AutoTokenizer

from rao_kedro.errors import ModelError, ParameterError


def test_an_unknown_method_is_named_with_the_known_ones(project):
    with pytest.raises(ParameterError, match=r"unknown roa; choose from rao dpo ipo"):
        run(project, params={"methods": "roa"})


def test_a_pipeline_before_its_inputs_says_what_is_missing_and_what_makes_it_and_no_more(project):
    """All that `kedro` shows at its start included."""
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "alignment"]
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1 and sum(len(line) // 80 + 1 for line in lines) < 12, ended.stdout
    wanted = "error: reward_annotated@path does not exist: run `kedro run --pipelines reward_modeling` first"
    assert lines[0].startswith(wanted), ended.stdout
    assert [line for line in lines if "--verbose" in line]


def test_a_model_that_cannot_be_used_is_refused_before_anything_is_made_with_it(project, tiny_checkpoint):
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint).save_pretrained(project / "model", max_shard_size="50KB")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(project / "model")
    (project / "model/model-00002-of-00003.safetensors").unlink()
    model = {"source": "checkpoint", "name": str(project / "model")}
    with pytest.raises(ModelError, match=r"lacks 1 of 3 weight files .*model-00002-of-00003\.safetensors"):
        run(project, "data_engineering", params={"model": model})
    assert not [path for path in (project / "data/test").rglob("*.parquet")]


def test_a_model_directory_without_a_chat_template_is_refused_by_name(project, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, project / "broken")
    (project / "broken/chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"broken has no chat template: add a chat_template\.jinja"):
        run(project, "data_engineering", params={"model": {"source": "checkpoint", "name": "broken"}})


def test_a_reward_that_does_not_exist_is_refused_before_anything_runs(project):
    run(project, "data_engineering")
    run(project, "supervised_finetuning")
    with pytest.raises(ParameterError, match="unknown reward 'magic': choose one of bradley_terry"):
        run(project, "reward_modeling", params={"reward_modeling": {"reward": {"name": "magic"}}})
    assert not (project / "data/test/06_models/reward_model").exists()
