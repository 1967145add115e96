"""The ratings in the data as rewards."""

from collections.abc import Sequence

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.rewards.base import Reward, Scores


class Ratings(Reward):
    """Returns the ratings of the data unchanged."""

    @property
    def identity(self) -> str:
        """Return "ratings"."""
        return "ratings"

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the ratings of each group; a group without ratings, such as a generated one, fails."""
        return [
            Scores.failed(len(group.responses), "the response has no rating")
            if group.ratings is None
            else Scores.complete(group.ratings)
            for group in groups
        ]
