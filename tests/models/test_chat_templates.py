"""The chat templates that ship write what the models that they are named after write."""

from importlib.resources import files

import pytest
from chats import write_chat
from transformers import PreTrainedTokenizerFast

from rao_kedro.config.data_engineering import TemplateOfModel
from rao_kedro.errors import ModelError
from rao_kedro.models.chat_templates import shipped_names, shipped_template
from rao_kedro.models.given_templates import given_template

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": " the fox? "},
    {"role": "assistant", "content": "jumps over "},
    {"role": "user", "content": "what"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nthe dog"},
    {"role": "user", "content": "why"},
    {"role": "assistant", "content": "<think>\nso\n</think>\n\nit is lazy"},
]
ORIGINALS = {"gemma": "gemma", "gemma3": "gemma3", "llama3": "llama3", "qwen2_5": "qwen2_5", "qwen3": "qwen3"}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")


def write(tokenizer, template, messages, **kwargs):
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **kwargs)


def chats():
    for system in ([], [SYSTEM]):
        for n in range(1, len(TURNS) + 1):
            yield [*system, *TURNS[:n]]


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_shipped_template_writes_what_the_original_writes(tokenizer, name):
    pytest.importorskip("trl")
    original = (files("trl") / "chat_templates" / f"{ORIGINALS[name]}.jinja").read_text()
    ways = [{}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "enable_thinking": False}]
    compared = 0
    for chat in chats():
        if name == "gemma" and chat[0] == SYSTEM:
            continue
        for how in ways:
            assert write(tokenizer, shipped_template(name), chat, **how) == write(tokenizer, original, chat, **how)
            compared += 1
    assert compared >= 18


def test_mistrals_template_writes_version_3_of_its_format(tokenizer):
    text = write(tokenizer, shipped_template("mistral"), TURNS[:4])
    assert text == ("<s>[INST]  the fox? [/INST] jumps over</s>[INST] what[/INST] <think>\nhm\n</think>\n\nthe dog</s>")
    prompt = write(tokenizer, shipped_template("mistral"), [SYSTEM, TURNS[0]], add_generation_prompt=True)
    assert prompt == "<s>[INST] Be brief.\n\n the fox? [/INST]"


def test_chatml_writes_every_message_as_it_is(tokenizer):
    text = write(tokenizer, shipped_template("chatml"), [SYSTEM, *TURNS[:1]], add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n the fox? <|im_end|>\n<|im_start|>assistant\n"
    )


def test_gemmas_template_has_no_system_role(tokenizer):
    with pytest.raises(Exception, match="System role not supported"):
        write(tokenizer, shipped_template("gemma"), [SYSTEM, *TURNS[:1]])


def test_a_template_is_a_shipped_one_a_file_or_another_models(tmp_path, tiny_checkpoint):
    assert given_template(None) is None
    for name in shipped_names():
        found = given_template(name)
        assert found.shipped and found.text == shipped_template(name)
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert given_template(str(tmp_path / "own.jinja")).text == "{{ messages }}"
    others = given_template(TemplateOfModel(model=str(tiny_checkpoint)))
    assert others.text == (tiny_checkpoint / "chat_template.jinja").read_text()
    assert {*others.control_tokens} >= {"<|im_start|>", "<|im_end|>"}


def test_a_model_without_a_template_gives_none(tmp_path):
    from chats import STYLES

    (write_chat(tmp_path / "base", STYLES["ChatML"]) / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="whose tokenizer has no chat template: name its chat derivative"):
        given_template(TemplateOfModel(model=str(tmp_path / "base")))
