"""Messages to tokens: generation header, end-of-turn token, and the errors of unusable directories."""

import pytest

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import common_prefix, load_tokenizer, prompt_token_ids, response_token_ids
from rao_kedro.models.identity import content_hash
from rao_kedro.models.loading import load_causal_lm

MESSAGES = [{"role": "user", "content": "the fox"}]


def test_response_ends_with_exactly_one_end_of_turn(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    ids = response_token_ids(tokenizer, MESSAGES, "jumps")
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids[:-1]) == "jumps"


def test_prompt_ends_with_the_generation_header(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    ids = prompt_token_ids(tokenizer, MESSAGES)
    assert tokenizer.decode(ids) == "<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\n"


def test_common_prefix_is_the_longest_shared_one():
    assert common_prefix([[1, 2, 3, 4], [1, 2, 3], [1, 2, 9]]) == [1, 2]
    assert common_prefix([[1, 2], [3]]) == []


def test_a_directory_without_tokenizer_template_or_weights_says_so(tiny_checkpoint, tmp_path):
    with pytest.raises(ModelError, match="no tokenizer could be loaded from"):
        load_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(ModelError, match="has no chat template"):
        load_tokenizer(tmp_path / "bare")
    with pytest.raises(ModelError, match="no model could be loaded from"):
        load_causal_lm(tmp_path / "bare")
    with pytest.raises(ModelError, match="holds no"):
        content_hash(tmp_path / "bare")
