"""A model's response to one dialogue of a benchmark. Knows nothing about generation and judging."""

from typing import NamedTuple, Self

from rao_kedro.config.generation import FinishReason
from rao_kedro.judges.replies import Answer
from rao_kedro.models.thinking import split_thinking


class Response(NamedTuple):
    """A response as the model wrote it.

    Attributes:
        text: The whole response, thinking included.
        finish_reason: "stop" where the model ended it, "length" where it was cut at the token limit.
        unscored_reason: Why a server gave no response; "" where there is one.
    """

    text: str
    finish_reason: FinishReason = "stop"
    unscored_reason: str = ""

    @property
    def answer(self) -> str:
        """The text after the thinking, which judges and the next turn see; "" where the thinking was cut."""
        return split_thinking(self.text).answer or ""

    @property
    def thinking(self) -> str:
        """The thinking before the answer; "" without any."""
        return split_thinking(self.text).thinking

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Return a server's answer as a response; its text is "" where the server gave none."""
        if reason := why_no_response(answer):
            return cls("", unscored_reason=reason)
        return cls(answer.whole, "length" if answer.finish_reason == "length" else "stop")


def why_no_response(answer: Answer) -> str:
    """Return why a server gave no response; "" where it gave one.

    A response that was cut at its token limit counts as one, as it does for a policy.
    """
    return "" if answer.thinking_was_cut else answer.failure(complete=False)
