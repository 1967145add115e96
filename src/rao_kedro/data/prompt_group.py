"""A prompt with its responses, as text: what rewards read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Message = Mapping[str, str]


@dataclass(frozen=True)
class PromptGroup:
    """A prompt and its K responses, as text, since a reward model has its own tokenizer and template.

    Attributes:
        group_id: Names it in errors and in tables.
        messages: The dialogue up to the last message of the user.
        responses: The texts to score.
        requirements: JSON list of the prompt's checkable requirements (`rao_kedro.data.requirements`).
        ratings: The data's ratings of the responses, if there are any.
        finished: False for a response that was cut at its token limit, so that no end-of-turn token follows; None if
            all are finished.
        earlier_turns: Per response, its messages before its last one, from the assistant's to the user's; None if all
            responses have one turn. `responses` are the last turns.
    """

    group_id: str
    messages: Sequence[Message]
    responses: Sequence[str]
    requirements: str = "[]"
    ratings: Sequence[float] | None = None
    finished: Sequence[bool] | None = None
    earlier_turns: Sequence[Sequence[Message]] | None = None

    def before(self, response: int) -> list[Message]:
        """Return the dialogue that the last turn of a response answers."""
        return [*self.messages, *(self.earlier_turns[response] if self.earlier_turns else [])]
