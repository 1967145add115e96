"""What a model writes to one dialogue of a benchmark. Knows nothing of who writes or who reads."""

from typing import NamedTuple, Self

from rao_kedro.config.generation import FinishReason
from rao_kedro.judges.replies import Answer
from rao_kedro.models.thinking import split_thinking


class Response(NamedTuple):
    """A response as it was written.

    Attributes:
        text: All of it, the thinking included.
        finish_reason: "stop" where the model ended it, "length" where it was cut at the token limit.
        unscored_reason: Why a server gave no response; "" where there is one.
    """

    text: str
    finish_reason: FinishReason = "stop"
    unscored_reason: str = ""

    @property
    def answer(self) -> str:
        """What stands behind the thinking, which judges and the next turn see; empty where the thought was cut."""
        return split_thinking(self.text).answer or ""

    @property
    def thinking(self) -> str:
        """What was thought before the answer; empty without any."""
        return split_thinking(self.text).thinking

    @classmethod
    def of(cls, answer: Answer) -> Self:
        """Return a server's answer as a response, without text where it gave none."""
        if reason := no_response(answer):
            return cls("", unscored_reason=reason)
        return cls(answer.whole, "length" if answer.finish_reason == "length" else "stop")


def no_response(answer: Answer) -> str:
    """Return why a server gave no response; one that was cut at its token limit is one, as it is of a policy."""
    return "" if answer.thinking_was_cut else answer.failure(complete=False)
