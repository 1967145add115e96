"""The base model from a directory: what is linked, what is mended, and what is said where it cannot be used."""

import json
import shutil

import pytest
import torch
from changed_checkpoints import (
    DATED,
    EMPTY_THOUGHTS,
    OPENS_THOUGHTS,
    an_adapter,
    as_hub_snapshot,
    copy_of,
    edit,
    edit_weights,
    in_fp8,
    in_shards,
    with_own_head,
    with_template,
    with_templates,
)
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)
from transformers.utils import chat_template_utils

from rao_kedro.config.specs import ModelImportSpec, ModelParameters
from rao_kedro.errors import ModelError
from rao_kedro.identity import content_hash
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.checks import check_weights
from rao_kedro.models.hub import CHECKPOINT_FILES, LEFT_OUT, SETTINGS_FILES
from rao_kedro.models.importing import main
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.tiny import CHATML

MESSAGES = [{"role": "user", "content": "the fox"}]


def imported(tmp_path, name, source="checkpoint", **parameters):
    model = ModelParameters(source=source, name=str(name), **parameters)
    spec = ModelImportSpec(model=model, output_dir=tmp_path / "out")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    main(str(tmp_path / "spec.json"))
    return spec.output_dir


def state_of(directory):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def logits(model_dir, ids=(5, 6, 7)):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(model_dir)(torch.tensor([ids])).logits


# What is used as it is.


def test_a_local_checkpoint_is_linked_not_copied_and_opens(tmp_path, tiny_checkpoint):
    for _ in range(2):  # again, over the first
        output = imported(tmp_path, tiny_checkpoint)
    assert all(path.is_symlink() for path in output.iterdir())
    assert {path.name for path in output.iterdir()} == {path.name for path in tiny_checkpoint.iterdir()}
    AutoModelForCausalLM.from_pretrained(output)


def test_shards_are_linked_and_compute_what_one_file_does(tmp_path, tiny_checkpoint):
    output = imported(tmp_path, in_shards(tiny_checkpoint, tmp_path / "shards"))
    assert len(list(output.glob("model-*.safetensors"))) > 2 and (output / "model.safetensors.index.json").is_symlink()
    assert torch.equal(logits(output), logits(tiny_checkpoint))


def test_a_snapshot_of_the_hubs_cache_is_the_same_model_and_has_the_same_identity(tmp_path, tiny_checkpoint):
    snapshot = as_hub_snapshot(tiny_checkpoint, tmp_path / "models--some--model")
    output = imported(tmp_path, snapshot)
    assert content_hash(output) == content_hash(snapshot) == content_hash(tiny_checkpoint)
    assert torch.equal(logits(output), logits(tiny_checkpoint))
    blob = (snapshot / "config.json").resolve()
    edit(blob, max_position_embeddings=1024)
    assert content_hash(output) == content_hash(snapshot) != content_hash(tiny_checkpoint)


def test_the_default_of_several_templates_writes_the_chats_and_the_others_stay(tmp_path, tiny_checkpoint):
    named = with_templates(tiny_checkpoint, tmp_path / "named", default=CHATML, tool_use="{{ tools }}")
    output = imported(tmp_path, named)
    ids = [prompt_token_ids(load_chat_format(model), MESSAGES) for model in (output, tiny_checkpoint)]
    assert ids[0] == ids[1]
    assert set(AutoTokenizer.from_pretrained(output).chat_template) == {"default", "tool_use"}


def test_templates_beside_the_default_come_along_from_their_folder(tmp_path, tiny_checkpoint):
    source = copy_of(tiny_checkpoint, tmp_path / "model")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/rag.jinja").write_text("{{ documents }}")
    output = imported(tmp_path, source)
    assert set(AutoTokenizer.from_pretrained(output).chat_template) == {"default", "rag"}


def test_a_download_takes_what_a_model_is_read_from_and_no_weights_in_other_forms():
    from huggingface_hub.utils import filter_repo_objects

    wanted = [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "merges.txt", "qwen.tiktoken"),
        *("chat_template.jinja", "additional_chat_templates/rag.jinja", "model.safetensors.index.json"),
        *("model.safetensors", "model-00001-of-00002.safetensors", "adapter_model.safetensors"),
    ]
    others = [
        *("README.md", "modeling_own.py", "pytorch_model.bin", "consolidated.safetensors", "original/params.json"),
        *("original/model.safetensors", "onnx/config.json", "fp16/model.safetensors"),
    ]
    found = filter_repo_objects([*wanted, *others], allow_patterns=CHECKPOINT_FILES, ignore_patterns=LEFT_OUT)
    assert [*found] == wanted
    assert not [*filter_repo_objects(["model.safetensors", "a.bin"], allow_patterns=SETTINGS_FILES)]


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
        imported(tmp_path, "some/model")
    assert "*.json" in asked and "*.safetensors" not in asked


# What is mended.


def test_a_date_in_the_template_is_fixed_in_the_import(tmp_path, tiny_checkpoint, monkeypatch, caplog):
    source = with_template(tiny_checkpoint, tmp_path / "dated", DATED)
    before = state_of(source)
    output = imported(tmp_path, source)
    assert "in the import it prints 26 Jul 2024" in caplog.text
    tokenizers = [AutoTokenizer.from_pretrained(model) for model in (source, output)]
    prompts = []
    for day in (1, 2):
        monkeypatch.setattr(chat_template_utils, "datetime", a_clock_at(day))
        prompts.append([tokenizer.apply_chat_template(MESSAGES, tokenize=False) for tokenizer in tokenizers])
    assert [("Today Date: 01 Feb 2033" in prompts[0][0]), ("Today Date: 02 Feb 2033" in prompts[1][0])] == [True, True]
    assert prompts[0][1] == prompts[1][1] and "Today Date: 26 Jul 2024" in prompts[0][1]
    assert state_of(source) == before


def a_clock_at(day):
    class Clock(chat_template_utils.datetime):
        @classmethod
        def now(cls):
            return cls(2033, 2, day)

    return Clock


def test_a_tokenizer_that_is_not_imported_prints_the_same_date_every_day_too(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", a_clock_at(1))
    reward_model = with_templates(tiny_checkpoint, tmp_path / "dated", default=DATED)
    text = load_tokenizer(reward_model).apply_chat_template(MESSAGES, tokenize=False)
    assert "Today Date: 26 Jul 2024" in text


def test_a_date_that_cannot_be_fixed_is_refused(tmp_path, tiny_checkpoint):
    template = "{% set now = strftime_now %}{{ now('%Y') }}" + CHATML
    with pytest.raises(ModelError, match=r"prints the date \(strftime_now\).*model\.chat_template"):
        imported(tmp_path, with_template(tiny_checkpoint, tmp_path / "dated", template))


def test_thoughts_that_a_template_writes_into_answers_are_switched_off_where_it_has_a_switch(
    tmp_path, tiny_checkpoint, caplog
):
    source = with_template(tiny_checkpoint, tmp_path / "thinking", EMPTY_THOUGHTS)
    chat = load_chat_format(imported(tmp_path, source))
    assert "enable_thinking is false in the import" in caplog.text
    assert chat.tokenizer.decode(response_token_ids(chat, MESSAGES, "jumps")) == "jumps<|im_end|>"
    assert chat.tokenizer.decode(prompt_token_ids(chat, MESSAGES)).endswith("assistant\n<think>\n\n</think>\n\n")
    thinking = load_chat_format(tmp_path / "out", {"enable_thinking": True})
    assert thinking.tokenizer.decode(prompt_token_ids(thinking, MESSAGES)).endswith("assistant\n")
    assert (source / "chat_template.jinja").read_text() == EMPTY_THOUGHTS


def test_generation_stops_where_the_template_ends_an_answer(tmp_path, tiny_checkpoint, caplog):
    source = with_template(tiny_checkpoint, tmp_path / "model", CHATML.replace("<|im_end|>", "<|endoftext|>"))
    output = imported(tmp_path, source)
    tokenizer = load_tokenizer(output)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == sorted(ends)
    assert f"ends an answer with token {ends[0]}, at which generation did not stop" in caplog.text


def test_a_template_of_the_parameters_takes_the_place_of_the_models_own(tmp_path, tiny_checkpoint):
    own = with_templates(tiny_checkpoint, tmp_path / "none", rag="{{ documents }}")
    template = "fox" + CHATML
    (tmp_path / "mine.jinja").write_text(template)
    output = imported(tmp_path, own, chat_template=tmp_path / "mine.jinja")
    assert AutoTokenizer.from_pretrained(output).chat_template == template
    assert "chat_template" not in json.loads((output / "tokenizer_config.json").read_text())
    tiny = imported(tmp_path, "tiny", source="tiny_random", chat_template=tmp_path / "mine.jinja")
    assert load_tokenizer(tiny).chat_template == template
    with pytest.raises(ModelError, match=r"no file .*absent\.jinja, which the parameter model\.chat_template names"):
        imported(tmp_path, own, chat_template=tmp_path / "absent.jinja")


def test_a_head_of_its_own_is_kept_apart_also_by_an_engine_that_believes_the_configuration(
    tmp_path, tiny_checkpoint, caplog
):
    source = with_own_head(tiny_checkpoint, tmp_path / "own_head")
    output = imported(tmp_path, source)
    assert "the model's head is not its embeddings" in caplog.text
    assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads((source / "config.json").read_text())["tie_word_embeddings"] is True
    model = load_causal_lm(output)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert torch.equal(logits(output), logits(source))


def test_an_adapter_is_merged_onto_its_base(tmp_path, tiny_checkpoint, caplog):
    adapted = an_adapter(tiny_checkpoint, tmp_path / "adapter", target_modules="all-linear")
    output = imported(tmp_path, tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(torch.tensor([[5, 6, 7]])).logits
    assert torch.allclose(logits(output), expected, atol=1e-4)
    assert not torch.allclose(logits(output), logits(tiny_checkpoint), atol=1e-2)
    assert not (output / "adapter_config.json").exists() and "was merged onto" in caplog.text
    assert load_tokenizer(output).chat_template == CHATML


def test_an_adapter_that_trained_the_embeddings_keeps_the_head_as_it_was(tmp_path, tiny_checkpoint):
    adapted = an_adapter(
        tiny_checkpoint, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    output = imported(tmp_path, tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(torch.tensor([[5, 6, 7]])).logits
    assert torch.allclose(logits(output), expected, atol=1e-4)
    assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is False


def test_fp8_weights_are_dequantised(tmp_path, tiny_checkpoint, caplog):
    plain = in_fp8(tiny_checkpoint, tmp_path / "fp8")
    output = imported(tmp_path, tmp_path / "fp8")
    stored = load_file(output / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16} and set(stored) == set(plain)
    for name, weight in stored.items():
        assert torch.equal(weight, plain[name].bfloat16()), name
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    assert "were dequantised" in caplog.text
    # What is trained from it is published in full precision.
    save_checkpoint(load_causal_lm(output), load_tokenizer(output), tmp_path / "policy")
    assert {w.dtype for w in load_file(tmp_path / "policy/model.safetensors").values()} == {torch.float32}


# What is refused.


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
        imported(tmp_path, broken)
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
        imported(tmp_path, quantised)


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
        (head_missing, r"1 are missing, lm_head\.weight.*tie_word_embeddings is true where"),
        (other_shape, r"has the shape \[32, 64\], where \[32, 60\] is expected \(6 such"),
        (bias_left_over, r"1 of them have no place in the model, model\.layers\.0\.self_attn\.q_proj\.bias"),
        (classifier, "is a LlamaForSequenceClassification .* and no causal language model"),
        (model_and_adapter, "holds a model and an adapter"),
        (adapter_of_nothing, "'/no/such/model'.*write its directory as base_model_name_or_path"),
        (adapter_of_a_quantised_model, r"cannot be merged onto its base model .*is quantised \(bitsandbytes"),
        (adapter_with_missing_weights, "missing adapter keys"),
        (padding_beyond, r"padding token .* is 999 .*embeddings of the tokens 0 to \d+"),
        (own_code, "needs Python code of its own"),
        (no_json, r"config\.json is no JSON"),
        (tokens_beyond, r"has 1 tokens that the model has no embedding of, 'foxes' \(\d+\).*resize_token_embeddings"),
        (padding_added, r"no embedding of, '\[PAD\]'"),
        (no_end_of_turn, "nothing ends an answer"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_what_to_do(tmp_path, tiny_checkpoint, spoil, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spoil(tiny_checkpoint, tmp_path / "spoilt")
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, tmp_path / "spoilt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (OPENS_THOUGHTS, r"ends a prompt with '.*<think>\\n'.*answer without reasoning.*model\.chat_template"),
        (EMPTY_THOUGHTS.replace("enable_thinking", "other"), r"writes '<think>.*model\.chat_template"),
        (
            "{{ raise_exception('only with tools') }}",
            r"cannot write a message of user \(TemplateError: only with tools",
        ),
        ("{{ messages[0].content.upper( }}", "TemplateSyntaxError"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out what the user says"),
        ("{{ messages[0].content }}<|im_end|>", "leaves out or changes what the assistant says"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused_with_what_it_does(
    tmp_path, tiny_checkpoint, template, message
):
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, with_template(tiny_checkpoint, tmp_path / "model", template))


def test_several_templates_without_a_default_are_named(tmp_path, tiny_checkpoint):
    named = with_templates(tiny_checkpoint, tmp_path / "named", rag="{{ documents }}", tool_use="{{ tools }}")
    with pytest.raises(ModelError, match=r"has the chat templates rag, tool_use and none that is named default"):
        imported(tmp_path, named)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHATML, "written"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML, "refused"),
        (CHATML.replace("messages %}", "messages if message.role != 'system' %}"), "left out"),
    ],
)
def test_what_a_template_does_with_system_messages_is_said(tmp_path, tiny_checkpoint, template, said, caplog):
    caplog.set_level("INFO", "rao_kedro")
    imported(tmp_path, with_template(tiny_checkpoint, tmp_path / "model", template))
    assert f"system messages are {said}" in caplog.text


def test_a_special_token_that_nothing_writes_may_be_without_an_embedding(tmp_path, tiny_checkpoint):
    source = copy_of(tiny_checkpoint, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(source)
    imported(tmp_path, source)


def test_a_model_that_is_neither_here_nor_on_the_hub_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'no-one/no-model' is neither a directory nor"):
        imported(tmp_path, "no-one/no-model")


def test_layers_that_cannot_be_packed_are_refused_before_anything_is_sampled(tmp_path, tiny_checkpoint):
    tokenizer, size = load_tokenizer(tiny_checkpoint), {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    with pytest.raises(
        ModelError, match=r"MambaForCausalLM cannot be computed on packed groups: .* another architecture"
    ):
        imported(tmp_path, tmp_path / "mamba")


def test_a_model_without_a_sequence_classifier_is_told_of_before_sft(tmp_path, tiny_checkpoint, caplog):
    tokenizer, size = load_tokenizer(tiny_checkpoint), {"hidden_size": 16, "intermediate_size": 16}
    size |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    GraniteForCausalLM(GraniteConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "granite")
    tokenizer.save_pretrained(tmp_path / "granite")
    imported(tmp_path, tmp_path / "granite")
    assert "no sequence classifier of GraniteForCausalLM: let reward_modeling.start name" in caplog.text


def test_constants_that_older_versions_stored_are_no_weights_left_over():
    found = {"mismatched_keys": [], "missing_keys": [], "unexpected_keys": ["model.layers.0.attn.masked_bias"]}
    check_weights("m", "model", found)
    found["unexpected_keys"].append("model.layers.0.attn.extra")
    with pytest.raises(ModelError, match="1 of them have no place in the model, model\.layers\.0\.attn\.extra"):
        check_weights("m", "model", found)


def test_a_system_message_that_moves_once_an_answer_is_there_is_told_of(tmp_path, tiny_checkpoint, caplog):
    """As in the template of Mistral-Instruct v0.3."""
    moving = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    imported(tmp_path, with_template(tiny_checkpoint, tmp_path / "moving", moving))
    assert "system messages are moved once an answer is there" in caplog.text
