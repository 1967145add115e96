"""A prompt with its responses, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Message = Mapping[str, str]


@dataclass(frozen=True)
class PromptGroup:
    """A prompt and its K responses, as text: a reward has its own tokenizer and template.

    Attributes:
        group_id: Names it in errors and in tables.
        messages: The dialogue up to the last message of the user.
        responses: What is scored.
        requirements: JSON list of the prompt's checkable requirements (`rao_kedro.data.requirements`).
        ratings: What the data say of the responses, where they say it.
        finished: False for a response that was cut at its token limit, which no end-of-turn token follows; None where
            all are finished.
    """

    group_id: str
    messages: Sequence[Message]
    responses: Sequence[str]
    requirements: str = "[]"
    ratings: Sequence[float] | None = None
    finished: Sequence[bool] | None = None
