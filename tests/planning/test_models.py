"""Models that cannot be used are refused before a run: what is missing, not whole, or of another kind."""

import json
import shutil

from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.planning import models


def test_the_weights_of_a_checkpoint_are_counted_without_loading_it(tiny_checkpoint):
    from transformers import AutoModelForCausalLM

    n = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_checkpoint).parameters())
    assert models._facts_of_checkpoint(tiny_checkpoint) == models.ModelFacts(n, 2048)
    assert models._positions({"max_position_embeddings": 9, "rope_scaling": {"type": "yarn", "factor": 4.0}}) is None


def test_a_model_that_is_not_there_or_not_whole_is_refused_and_one_of_the_hub_is_not(tiny_checkpoint, tmp_path):
    def found(name, **options):
        return list(models.checkpoint_problems("model.name", str(name), **options))

    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    assert found(tmp_path / "model", base=True) == []
    for file in [*(tmp_path / "model").glob("tokenizer*")]:
        file.rename(tmp_path / file.name)
    assert "has no tokenizer" in found(tmp_path / "model")[0]
    for file in [*tmp_path.glob("tokenizer*")]:
        file.rename(tmp_path / "model" / file.name)
    (tmp_path / "model/model.safetensors").write_bytes(b"version https://git-lfs")
    assert "is a Git LFS pointer" in found(tmp_path / "model")[0]
    (tmp_path / "model/model.safetensors").unlink()
    assert "it needs a config.json and *.safetensors files" in found(tmp_path / "model")[0]
    assert "is neither a directory nor a name of the hub" in found("models/of/mine")[0]
    settings = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(settings | {"architectures": ["BertModel"]}))
    shutil.copy(tiny_checkpoint / "model.safetensors", tmp_path / "model")
    assert "not a causal language model" in found(tmp_path / "model", base=True)[0]
    assert found(tmp_path / "model") == []


def test_a_hub_name_is_refused_only_where_the_hub_is_off_limits_and_nothing_was_downloaded(monkeypatch):
    monkeypatch.setattr(models, "_offline", lambda: False)
    assert list(models.checkpoint_problems("model.name", "nobody/nothing")) == []
    monkeypatch.setattr(models, "_offline", lambda: True)
    (sentence,) = models.checkpoint_problems("model.name", "nobody/nothing")
    assert "HF_HUB_OFFLINE is set" in sentence
    monkeypatch.setattr(models, "_is_cached", lambda name, revision: True)
    assert list(models.checkpoint_problems("model.name", "nobody/nothing")) == []


def test_a_chat_template_is_there_and_has_a_syntax(tmp_path):
    path = tmp_path / "chat.jinja"

    def found(named=str(path)):
        return list(models.import_problems(ModelParameters(source="tiny_random", name="t", chat_template=named)))

    (sentence,) = found()
    assert sentence.startswith(f"parameter model.chat_template: there is no file {path}, and no chat template of that")
    assert found("chatml") == found({"model": str(tmp_path)}) == []
    assert "HF_HUB_OFFLINE is set" in found({"model": "some/chat-model"})[0]
    path.write_text("{% for m in messages %}{{ m.content }}")
    assert f"{path}, line 1: Unexpected end of template" in found()[0]
    path.write_text("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
    assert found() == []


def test_a_package_with_a_model_is_installed():
    (sentence,) = models.import_problems(ModelParameters(source="gguf_package", name="no_such_model"))
    assert "no package 'no_such_model' is installed" in sentence
