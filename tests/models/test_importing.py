"""Importing the base model: what is linked, what is mended, and what is said about it."""

import json

import pytest
import torch
from changed_checkpoints import (
    DATED,
    EMPTY_THOUGHTS,
    an_adapter,
    as_hub_snapshot,
    copy_of,
    edit,
    import_model,
    in_fp8,
    in_shards,
    with_own_head,
    with_template,
    with_templates,
)
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
)
from transformers.utils import chat_template_utils

from rao_kedro.errors import ModelError
from rao_kedro.identity import content_hash
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.hub import CHECKPOINT_FILES, LEFT_OUT, SETTINGS_FILES
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.tiny import CHATML

MESSAGES = [{"role": "user", "content": "the fox"}]


def state_of(directory):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.iterdir()}


def logits(model_dir, ids=(5, 6, 7)):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(model_dir)(torch.tensor([ids])).logits


def test_a_local_checkpoint_is_linked_not_copied_and_opens(tmp_path, tiny_checkpoint):
    for _ in range(2):  # again, over the first
        output = import_model(tmp_path, tiny_checkpoint)
    assert all(path.is_symlink() for path in output.iterdir())
    assert {path.name for path in output.iterdir()} == {path.name for path in tiny_checkpoint.iterdir()}
    AutoModelForCausalLM.from_pretrained(output)


def test_shards_are_linked_and_compute_what_one_file_does(tmp_path, tiny_checkpoint):
    output = import_model(tmp_path, in_shards(tiny_checkpoint, tmp_path / "shards"))
    assert len(list(output.glob("model-*.safetensors"))) > 2 and (output / "model.safetensors.index.json").is_symlink()
    assert torch.equal(logits(output), logits(tiny_checkpoint))


def test_a_snapshot_of_the_hubs_cache_is_the_same_model_and_has_the_same_identity(tmp_path, tiny_checkpoint):
    snapshot = as_hub_snapshot(tiny_checkpoint, tmp_path / "models--some--model")
    output = import_model(tmp_path, snapshot)
    assert content_hash(output) == content_hash(snapshot) == content_hash(tiny_checkpoint)
    assert torch.equal(logits(output), logits(tiny_checkpoint))
    blob = (snapshot / "config.json").resolve()
    edit(blob, max_position_embeddings=1024)
    assert content_hash(output) == content_hash(snapshot) != content_hash(tiny_checkpoint)


def test_the_default_of_several_templates_writes_the_chats_and_the_others_stay(tmp_path, tiny_checkpoint):
    named = with_templates(tiny_checkpoint, tmp_path / "named", default=CHATML, tool_use="{{ tools }}")
    output = import_model(tmp_path, named)
    ids = [prompt_token_ids(load_chat_format(model), MESSAGES) for model in (output, tiny_checkpoint)]
    assert ids[0] == ids[1]
    assert set(AutoTokenizer.from_pretrained(output).chat_template) == {"default", "tool_use"}


def test_templates_beside_the_default_come_along_from_their_folder(tmp_path, tiny_checkpoint):
    source = copy_of(tiny_checkpoint, tmp_path / "model")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/rag.jinja").write_text("{{ documents }}")
    output = import_model(tmp_path, source)
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


def test_a_date_in_the_template_is_fixed_in_the_import(tmp_path, tiny_checkpoint, monkeypatch, caplog):
    source = with_template(tiny_checkpoint, tmp_path / "dated", DATED)
    before = state_of(source)
    output = import_model(tmp_path, source)
    assert "in the import it always prints 26 Jul 2024" in caplog.text
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


def test_thoughts_that_a_template_writes_into_answers_are_switched_off_where_it_has_a_switch(
    tmp_path, tiny_checkpoint, caplog
):
    source = with_template(tiny_checkpoint, tmp_path / "thinking", EMPTY_THOUGHTS)
    chat = load_chat_format(import_model(tmp_path, source))
    assert "enable_thinking is false in the import" in caplog.text
    assert chat.tokenizer.decode(response_token_ids(chat, MESSAGES, "jumps")) == "jumps<|im_end|>"
    assert chat.tokenizer.decode(prompt_token_ids(chat, MESSAGES)).endswith("assistant\n<think>\n\n</think>\n\n")
    thinking = load_chat_format(tmp_path / "out", {"enable_thinking": True})
    assert thinking.tokenizer.decode(prompt_token_ids(thinking, MESSAGES)).endswith("assistant\n")
    assert (source / "chat_template.jinja").read_text() == EMPTY_THOUGHTS


def test_generation_stops_where_the_template_ends_an_answer(tmp_path, tiny_checkpoint, caplog):
    source = with_template(tiny_checkpoint, tmp_path / "model", CHATML.replace("<|im_end|>", "<|endoftext|>"))
    output = import_model(tmp_path, source)
    tokenizer = load_tokenizer(output)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert json.loads((output / "generation_config.json").read_text())["eos_token_id"] == sorted(ends)
    assert f"ends a response with token {ends[0]}, at which generation did not stop" in caplog.text


def test_a_template_of_the_parameters_takes_the_place_of_the_models_own(tmp_path, tiny_checkpoint):
    own = with_templates(tiny_checkpoint, tmp_path / "none", rag="{{ documents }}")
    template = "fox" + CHATML
    (tmp_path / "mine.jinja").write_text(template)
    output = import_model(tmp_path, own, chat_template=str(tmp_path / "mine.jinja"))
    assert AutoTokenizer.from_pretrained(output).chat_template == template
    assert "chat_template" not in json.loads((output / "tokenizer_config.json").read_text())
    tiny = import_model(tmp_path, "tiny", source="tiny_random", chat_template=str(tmp_path / "mine.jinja"))
    assert load_tokenizer(tiny).chat_template == template
    with pytest.raises(ModelError, match=r"absent\.jinja', which is neither a file nor one of .*: chatml, gemma, "):
        import_model(tmp_path, own, chat_template=str(tmp_path / "absent.jinja"))


def test_a_head_of_its_own_is_kept_apart_also_by_an_engine_that_believes_the_configuration(
    tmp_path, tiny_checkpoint, caplog
):
    source = with_own_head(tiny_checkpoint, tmp_path / "own_head")
    output = import_model(tmp_path, source)
    assert "the model's head differs from its embeddings" in caplog.text
    assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads((source / "config.json").read_text())["tie_word_embeddings"] is True
    model = load_causal_lm(output)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert torch.equal(logits(output), logits(source))


def test_an_adapter_is_merged_onto_its_base(tmp_path, tiny_checkpoint, caplog):
    adapted = an_adapter(tiny_checkpoint, tmp_path / "adapter", target_modules="all-linear")
    output = import_model(tmp_path, tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(torch.tensor([[5, 6, 7]])).logits
    assert torch.allclose(logits(output), expected, atol=1e-4)
    assert not torch.allclose(logits(output), logits(tiny_checkpoint), atol=1e-2)
    assert not (output / "adapter_config.json").exists() and "was merged into" in caplog.text
    assert load_tokenizer(output).chat_template == CHATML


def test_an_adapter_that_trained_the_embeddings_keeps_the_head_as_it_was(tmp_path, tiny_checkpoint):
    adapted = an_adapter(
        tiny_checkpoint, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    output = import_model(tmp_path, tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(torch.tensor([[5, 6, 7]])).logits
    assert torch.allclose(logits(output), expected, atol=1e-4)
    assert json.loads((output / "config.json").read_text())["tie_word_embeddings"] is False


def test_fp8_weights_are_dequantised(tmp_path, tiny_checkpoint, caplog):
    plain = in_fp8(tiny_checkpoint, tmp_path / "fp8")
    output = import_model(tmp_path, tmp_path / "fp8")
    stored = load_file(output / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16} and set(stored) == set(plain)
    for name, weight in stored.items():
        assert torch.equal(weight, plain[name].bfloat16()), name
    assert "quantization_config" not in json.loads((output / "config.json").read_text())
    assert "were dequantised" in caplog.text
    # What is trained from it is published in full precision.
    save_checkpoint(load_causal_lm(output), load_tokenizer(output), tmp_path / "policy")
    assert {w.dtype for w in load_file(tmp_path / "policy/model.safetensors").values()} == {torch.float32}


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
    import_model(tmp_path, with_template(tiny_checkpoint, tmp_path / "model", template))
    assert f"system messages are {said}" in caplog.text


def test_a_special_token_that_nothing_writes_may_be_without_an_embedding(tmp_path, tiny_checkpoint):
    source = copy_of(tiny_checkpoint, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(source)
    output = import_model(tmp_path, source)
    embeddings = AutoModelForCausalLM.from_pretrained(output).get_input_embeddings().num_embeddings
    assert AutoTokenizer.from_pretrained(output).convert_tokens_to_ids("<image_soft_token>") == embeddings


def test_a_model_without_a_sequence_classifier_is_told_of_before_sft(tmp_path, tiny_checkpoint, caplog):
    tokenizer, size = load_tokenizer(tiny_checkpoint), {"hidden_size": 16, "intermediate_size": 16}
    size |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    GraniteForCausalLM(GraniteConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "granite")
    tokenizer.save_pretrained(tmp_path / "granite")
    import_model(tmp_path, tmp_path / "granite")
    assert "no sequence classifier of GraniteForCausalLM: for a trained reward model, set" in caplog.text


def test_a_system_message_that_moves_once_an_answer_is_there_is_told_of(tmp_path, tiny_checkpoint, caplog):
    """As in the template of Mistral-Instruct v0.3."""
    caplog.set_level("INFO", "rao_kedro")
    moving = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\\n' }}"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    import_model(tmp_path, with_template(tiny_checkpoint, tmp_path / "moving", moving))
    assert "system messages are moved when a response follows" in caplog.text
