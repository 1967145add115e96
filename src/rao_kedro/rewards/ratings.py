"""The ratings of the data as rewards, where they are to be trusted."""

from collections.abc import Sequence

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.rewards.base import Reward, Scores


class Ratings(Reward):
    """What the data say of their responses."""

    @property
    def identity(self) -> str:
        """Return "ratings"."""
        return "ratings"

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the ratings of each group; responses that nobody rated, such as generated ones, have none."""
        return [
            Scores.failed(len(group.responses), "the response has no rating")
            if group.ratings is None
            else Scores.complete(group.ratings)
            for group in groups
        ]
