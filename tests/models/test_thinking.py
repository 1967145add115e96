import pytest

from rao_kedro.models.thinking import Thought, split_thinking


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
