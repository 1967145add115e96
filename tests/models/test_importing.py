"""The base model from a directory, and what is said where it cannot be had."""

import shutil

import pytest
from transformers import AutoModelForCausalLM

from rao_kedro.errors import ModelError
from rao_kedro.models.importing import link_checkpoint, main
from rao_kedro.schemas.specs import ModelImportSpec, ModelParameters


def imported(tmp_path, name):
    spec = ModelImportSpec(model=ModelParameters(source="checkpoint", name=str(name)), output_dir=tmp_path / "out")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    main(str(tmp_path / "spec.json"))
    return spec.output_dir


def test_a_local_checkpoint_is_linked_not_copied_and_opens(tmp_path, tiny_checkpoint):
    output = imported(tmp_path, tiny_checkpoint)
    assert (output / "model.safetensors").is_symlink()
    AutoModelForCausalLM.from_pretrained(output)
    link_checkpoint(tiny_checkpoint, output)  # again, over the first


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", r"is not a checkpoint: it needs a config\.json"),
        ("model.safetensors", r"it needs .*\*\.safetensors"),
        ("tokenizer.json", "no tokenizer could be loaded"),
        ("chat_template.jinja", "has no chat template"),
    ],
)
def test_a_directory_that_lacks_something_is_refused_with_what_it_lacks(tmp_path, tiny_checkpoint, removed, message):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    (broken / removed).unlink()
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, broken)


def test_a_model_that_is_neither_here_nor_on_the_hub_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'no-one/no-model' is neither a directory nor"):
        imported(tmp_path, "no-one/no-model")
