"""Splits a response into the model's thinking and its answer. Knows nothing about generation or judging.

Models that think write `<think> ... </think> answer`. Where the chat template writes the opening tag, the response has
the closing tag only.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "<think>", "</think>"
TAG_TOKENS = 8  # enough for a tag and a line break, also where the tag is several tokens


class Thought(NamedTuple):
    """A response in its two parts.

    Attributes:
        thinking: The text of the thinking; empty if there is none.
        answer: The text after it; None if the thinking did not end.
    """

    thinking: str
    answer: str | None


def split_thinking(text: str, opened: bool = False) -> Thought:
    """Split a text at the end of its thinking.

    Args:
        text: The response.
        opened: The prompt ends with the opening tag, as some chat templates write it.

    Returns:
        The thinking without tags, and the answer, stripped if there was thinking. An opening tag after the beginning of
        the answer belongs to the answer.
    """
    if not (opened or text.lstrip().startswith(OPEN) or (CLOSE in text and OPEN not in text.partition(CLOSE)[0])):
        return Thought("", text)
    thinking, closed, answer = text.partition(CLOSE)
    return Thought(thinking.strip().removeprefix(OPEN).strip(), answer.strip() if closed else None)


def add_opening_tag(tokenizer: "PreTrainedTokenizerBase", prompt_ids: Sequence[int], response: str) -> str:
    """Put the opening tag before a response if its prompt ends with that tag, so that all responses have both tags.

    Args:
        tokenizer: The model's tokenizer.
        prompt_ids: Token ids of the prompt with its generation header.
        response: The text that the model wrote after them.
    """
    end = str(tokenizer.decode(list(prompt_ids[-TAG_TOKENS:]))).rstrip()
    return f"{OPEN}\n{response}" if end.endswith(OPEN) else response
