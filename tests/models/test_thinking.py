from functools import partial

import pytest

from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.thinking import Thought, add_opening_tag, split_thinking


@pytest.mark.parametrize(
    ("text", "opened", "thought"),
    [
        ("42", False, Thought("", "42")),
        ("<think>6 times 7</think>\n\n42", False, Thought("6 times 7", "42")),
        ("\n<think>\n\n</think>\n\n42", False, Thought("", "42")),
        ("6 times 7</think>42", False, Thought("6 times 7", "42")),  # the chat template opened the thought
        ("<think>6 times", False, Thought("6 times", None)),
        ("6 times", True, Thought("6 times", None)),
        ("6 times 7</think>42", True, Thought("6 times 7", "42")),
        ("The tag <think> opens a thought.", False, Thought("", "The tag <think> opens a thought.")),
        ("Write <think>x</think>.", False, Thought("", "Write <think>x</think>.")),
        ("", False, Thought("", "")),
    ],
)
def test_an_answer_is_what_stands_behind_the_thinking(text, opened, thought):
    assert split_thinking(text, opened) == thought


def test_a_response_to_a_prompt_that_opens_a_thought_is_read_as_one(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    opened, closed = (
        partial(add_opening_tag, tokenizer, tokenizer(f"<|im_start|>assistant\n{text}")["input_ids"])
        for text in ("<think>\n", "<think>\n\n</think>\n\n")
    )
    assert split_thinking(opened("6 times 7")) == Thought("6 times 7", None)
    assert split_thinking(opened("6 times 7</think>\n42")) == Thought("6 times 7", "42")
    assert closed("42") == "42"
