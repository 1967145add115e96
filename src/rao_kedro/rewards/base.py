"""What every reward takes and gives: prompt groups as text, and a score per response. Imports no model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rao_kedro.data.prompt_group import PromptGroup


@dataclass(frozen=True)
class Scores:
    """What a reward says of one group, response by response.

    Attributes:
        rewards: Not a number where a response could not be scored.
        truncated: Whether only a part of the response was read.
        failures: Why a response could not be scored; empty where it was.
    """

    rewards: list[float]
    truncated: list[bool]
    failures: list[str]

    @classmethod
    def complete(cls, rewards: Sequence[float]) -> "Scores":
        """Return scores without truncation or failure."""
        return cls([float(reward) for reward in rewards], [False] * len(rewards), [""] * len(rewards))

    @classmethod
    def failed(cls, n: int, reason: str) -> "Scores":
        """Return scores of `n` responses none of which could be scored."""
        return cls([math.nan] * n, [False] * n, [reason] * n)


class Reward(ABC):
    """Scores responses. Making one checks its parameters; models are loaded when they are first needed.

    Under accelerate, every process passes the same groups, and gets the scores of all of them.
    """

    @property
    @abstractmethod
    def identity(self) -> str:
        """Return a short hash of all that the scores depend on besides the groups."""

    @abstractmethod
    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the scores of each group, with what a reader must know of them."""

    def forecast(self, groups: Sequence[PromptGroup]) -> None:  # noqa: B027
        """Log what scoring these groups will cost, where a reward is paid for.

        Raises:
            InferenceError: It is expected to cost more than it may.
        """

    def score(self, groups: Sequence[PromptGroup]) -> list[list[float]]:
        """Return the rewards `[G, K]` of the responses; not a number where one could not be scored."""
        return [scores.rewards for scores in self.annotate(groups)]
