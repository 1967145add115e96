"""Base models that cannot be used are refused by the import, which says what to do."""

import shutil

import pytest
import torch
from changed_checkpoints import (
    EMPTY_THOUGHTS,
    OPENS_THOUGHTS,
    an_adapter,
    copy_of,
    edit,
    edit_weights,
    import_model,
    in_shards,
    with_template,
    with_templates,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
)

from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.checks import check_weights
from rao_kedro.models.loading import save_checkpoint
from rao_kedro.models.tiny import CHATML


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", r"is not a checkpoint: it needs a config\.json"),
        ("model.safetensors", r"it needs .*\*\.safetensors"),
        ("tokenizer.json", "no tokenizer could be loaded"),
        ("chat_template.jinja", r"has no chat template.*model\.chat_template"),
    ],
)
def test_a_directory_that_lacks_something_is_refused_with_what_it_lacks(tmp_path, tiny_checkpoint, removed, message):
    broken = copy_of(tiny_checkpoint, tmp_path / "broken")
    (broken / removed).unlink()
    with pytest.raises(ModelError, match=message):
        import_model(tmp_path, broken)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128}),
        ("awq", {"quant_method": "awq", "bits": 4, "zero_point": True}),
        ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("bitsandbytes", {"load_in_8bit": True}),
        ("compressed-tensors", {"quant_method": "compressed-tensors", "format": "float-quantized"}),
        ("mxfp4", {"quant_method": "mxfp4"}),
        ("4 bits", {"bits": 4, "group_size": 64}),
    ],
)
def test_a_quantised_model_is_refused_with_what_to_do(tmp_path, tiny_checkpoint, method, settings):
    quantised = copy_of(tiny_checkpoint, tmp_path / "quantised", quantization_config=settings)
    with pytest.raises(ModelError, match=rf"is quantised \({method}, .*name the model that it was made from"):
        import_model(tmp_path, quantised)


def missing_shard(tiny, directory):
    in_shards(tiny, directory)
    (directory / "model-00002-of-00003.safetensors").unlink()


def pickled(tiny, directory):
    copy_of(tiny, directory)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def lfs_pointer(tiny, directory):
    copy_of(tiny, directory)
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def cut_off(tiny, directory):
    copy_of(tiny, directory)
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-100])


def weight_missing(tiny, directory):
    copy_of(tiny, directory)
    edit_weights(directory, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))


def head_missing(tiny, directory):
    copy_of(tiny, directory, tie_word_embeddings=False)


def other_shape(tiny, directory):
    copy_of(tiny, directory, intermediate_size=60)


def bias_left_over(tiny, directory):
    copy_of(tiny, directory)
    edit_weights(directory, lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}))


def classifier(tiny, directory):
    model = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=3)
    save_checkpoint(model, load_tokenizer(tiny), directory)


def model_and_adapter(tiny, directory):
    an_adapter(tiny, directory)
    shutil.copytree(tiny, directory, dirs_exist_ok=True)


def adapter_of_nothing(tiny, directory):
    an_adapter(tiny, directory)
    edit(directory / "adapter_config.json", base_model_name_or_path="/no/such/model")


def adapter_of_a_quantised_model(tiny, directory):
    an_adapter(tiny, directory)
    base = copy_of(tiny, directory / "base", quantization_config={"quant_method": "bitsandbytes"})
    edit(directory / "adapter_config.json", base_model_name_or_path=str(base))


def adapter_with_missing_weights(tiny, directory):
    an_adapter(tiny, directory)
    edit(directory / "adapter_config.json", target_modules=["q_proj", "v_proj", "k_proj"])


def padding_beyond(tiny, directory):
    copy_of(tiny, directory, pad_token_id=999)


def own_code(tiny, directory):
    copy_of(tiny, directory, model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})


def no_json(tiny, directory):
    copy_of(tiny, directory)
    (directory / "config.json").write_text("{")


def tokens_beyond(tiny, directory):
    copy_of(tiny, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens(["foxes"])
    tokenizer.save_pretrained(directory)


def padding_added(tiny, directory):
    copy_of(tiny, directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(directory)


def no_end_of_turn(tiny, directory):
    with_template(
        tiny,
        directory,
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
    )
    edit(directory / "tokenizer_config.json", eos_token=None)
    edit(directory / "generation_config.json", eos_token_id=None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_shard, r"lacks 1 of 3 weight files .*model-00002-of-00003\.safetensors"),
        (pickled, r"are pickled \(pytorch_model\.bin\).*save_pretrained"),
        (lfs_pointer, "Git LFS pointer.*git lfs pull"),
        (cut_off, "no model could be loaded from"),
        (weight_missing, r"1 are missing, model\.layers\.1\.mlp\.up_proj\.weight, and would be random"),
        (head_missing, r"1 are missing, lm_head\.weight.*tie_word_embeddings: true if"),
        (other_shape, r"has the shape \[32, 64\], expected \[32, 60\] \(6 such"),
        (bias_left_over, r"1 of them have no place in the model, model\.layers\.0\.self_attn\.q_proj\.bias"),
        (classifier, "is a LlamaForSequenceClassification .*, not a causal language model"),
        (model_and_adapter, "contains a model and an adapter"),
        (adapter_of_nothing, "'/no/such/model'.*write its directory as base_model_name_or_path"),
        (adapter_of_a_quantised_model, r"cannot be merged into its base model .*is quantised \(bitsandbytes"),
        (adapter_with_missing_weights, "missing adapter keys"),
        (padding_beyond, r"padding token .* is 999 .*embeddings of the tokens 0 to \d+"),
        (own_code, "needs Python code of its own"),
        (no_json, r"config\.json is not JSON"),
        (tokens_beyond, r"has 1 tokens without an embedding in the model, 'foxes' \(\d+\).*resize_token_embeddings"),
        (padding_added, r"without an embedding in the model, '\[PAD\]'"),
        (no_end_of_turn, "no token ends a response"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_what_to_do(tmp_path, tiny_checkpoint, spoil, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spoil(tiny_checkpoint, tmp_path / "spoilt")
    with pytest.raises(ModelError, match=message):
        import_model(tmp_path, tmp_path / "spoilt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (OPENS_THOUGHTS, r"ends a prompt with '.*<think>\\n'.*responses without reasoning.*model\.chat_template"),
        (EMPTY_THOUGHTS.replace("enable_thinking", "other"), r"writes '<think>.*model\.chat_template"),
        (
            "{{ raise_exception('only with tools') }}",
            r"cannot write messages of user \(TemplateError: only with tools",
        ),
        ("{{ messages[0].content.upper( }}", "TemplateSyntaxError"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out the user's text"),
        ("{{ messages[0].content }}<|im_end|>", "leaves out or changes the assistant's text"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused_with_what_it_does(
    tmp_path, tiny_checkpoint, template, message
):
    with pytest.raises(ModelError, match=message):
        import_model(tmp_path, with_template(tiny_checkpoint, tmp_path / "model", template))


def test_several_templates_without_a_default_are_named(tmp_path, tiny_checkpoint):
    named = with_templates(tiny_checkpoint, tmp_path / "named", rag="{{ documents }}", tool_use="{{ tools }}")
    with pytest.raises(ModelError, match=r"has the chat templates rag, tool_use, but none named default"):
        import_model(tmp_path, named)


def test_a_model_that_is_neither_here_nor_on_the_hub_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'no-one/no-model' is neither a directory nor"):
        import_model(tmp_path, "no-one/no-model")


def test_layers_that_cannot_be_packed_are_refused_before_anything_is_sampled(tmp_path, tiny_checkpoint):
    tokenizer, size = load_tokenizer(tiny_checkpoint), {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    with pytest.raises(
        ModelError, match=r"MambaForCausalLM cannot be computed on packed groups: .* another architecture"
    ):
        import_model(tmp_path, tmp_path / "mamba")


def test_constants_that_older_versions_stored_are_no_weights_left_over():
    found = {"mismatched_keys": [], "missing_keys": [], "unexpected_keys": ["model.layers.0.attn.masked_bias"]}
    check_weights("m", "model", found)
    found["unexpected_keys"].append("model.layers.0.attn.extra")
    with pytest.raises(ModelError, match=r"1 of them have no place in the model, model\.layers\.0\.attn\.extra"):
        check_weights("m", "model", found)


def test_a_quantised_model_of_the_hub_is_refused_before_its_weights_are_downloaded(
    tmp_path, tiny_checkpoint, monkeypatch
):
    gptq = copy_of(tiny_checkpoint, tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, allow_patterns, **kwargs: asked.extend(allow_patterns) or gptq,
    )
    with pytest.raises(ModelError, match="is quantised"):
        import_model(tmp_path, "some/model")
    assert "*.json" in asked and "*.safetensors" not in asked


def test_a_date_that_cannot_be_fixed_is_refused(tmp_path, tiny_checkpoint):
    template = "{% set now = strftime_now %}{{ now('%Y') }}" + CHATML
    with pytest.raises(ModelError, match=r"prints today's date \(strftime_now\).*model\.chat_template"):
        import_model(tmp_path, with_template(tiny_checkpoint, tmp_path / "dated", template))
