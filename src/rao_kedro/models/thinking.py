"""What a model thought before it answered, told apart from the answer. Knows nothing of who asks or who reads.

Models that think write `<think> ... </think> answer`; where the chat template already opened the thought, only the
closing tag is in the text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<think>", "</think>"
TAG_TOKENS = 8  # that hold a tag and a line break, also where the tag is no token of its own


class Thought(NamedTuple):
    """A text in its two parts.

    Attributes:
        thinking: What stands before the answer; empty where nothing was thought.
        answer: What is said; None where the thought did not come to its end.
    """

    thinking: str
    answer: str | None


def split_thinking(text: str, opened: bool = False) -> Thought:
    """Split a text at the end of its thinking.

    Args:
        text: What a model wrote.
        opened: Whether its prompt ended inside a thought, as some chat templates make it.

    Returns:
        The thinking without tags, and the answer, stripped where there was any thinking. A tag that is opened behind
        the answer's beginning belongs to the answer.
    """
    if not (opened or text.lstrip().startswith(OPEN) or (CLOSE in text and OPEN not in text.partition(CLOSE)[0])):
        return Thought("", text)
    thinking, closed, answer = text.partition(CLOSE)
    return Thought(thinking.strip().removeprefix(OPEN).strip(), answer.strip() if closed else None)


def with_opening_tag(tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int], response: str) -> str:
    """Return a response behind the opening tag that its prompt ends with, so that all responses are read alike.

    Args:
        tokenizer: Of the model.
        prompt_ids: The prompt, with its generation header.
        response: What the model wrote behind it.
    """
    end = str(tokenizer.decode(list(prompt_ids[-TAG_TOKENS:]))).rstrip()
    return f"{OPEN}\n{response}" if end.endswith(OPEN) else response
