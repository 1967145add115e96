"""The interface of a reward: prompt groups as text in, a score per response out. Imports no model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from rao_kedro.data.prompt_group import PromptGroup


@dataclass(frozen=True)
class Scores:
    """The rewards of one group, response by response.

    Attributes:
        rewards: NaN if the response could not be scored.
        truncated: Whether only the beginning of the response was read.
        failures: Why the response could not be scored; empty if it was.
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
        """Return the scores of `n` responses, none of which could be scored."""
        return cls([math.nan] * n, [False] * n, [reason] * n)


class Reward(ABC):
    """Scores responses. The constructor checks parameters; models are loaded when they are first needed.

    Under accelerate, every process passes the same groups and gets the scores of all of them.
    """

    @property
    @abstractmethod
    def identity(self) -> str:
        """Return a short string that changes with everything the scores depend on besides the groups."""

    @abstractmethod
    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the scores of each group."""

    def forecast(self, groups: Sequence[PromptGroup]) -> None:  # noqa: B027
        """Log the expected cost of scoring these groups, if the reward is paid for.

        Raises:
            GenerationError: The expected cost exceeds the limit.
        """

    def score(self, groups: Sequence[PromptGroup]) -> list[list[float]]:
        """Return the rewards `[groups][responses]`; NaN if a response could not be scored."""
        return [scores.rewards for scores in self.annotate(groups)]
