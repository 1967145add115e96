"""What a model writes to one dialogue of a benchmark. Knows nothing of who writes or who reads."""

from typing import NamedTuple

from rao_kedro.models.thinking import split_thinking
from rao_kedro.schemas.generation import FinishReason


class Response(NamedTuple):
    """A response as it was written.

    Attributes:
        text: All of it, the thinking included.
        finish_reason: "stop" where the model ended it, "length" where it was cut at the token limit.
    """

    text: str
    finish_reason: FinishReason = "stop"

    @property
    def answer(self) -> str:
        """What stands behind the thinking, which judges and the next turn see; empty where the thought was cut."""
        return split_thinking(self.text).answer or ""

    @property
    def thinking(self) -> str:
        """What was thought before the answer; empty without any."""
        return split_thinking(self.text).thinking
