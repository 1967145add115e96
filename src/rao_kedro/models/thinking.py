"""What a model thought before it answered, told apart from the answer. Knows nothing of who asks or who reads.

Models that think write `<think> ... </think> answer`; where the chat template already opened the thought, only the
closing tag is in the text.
"""

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


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
