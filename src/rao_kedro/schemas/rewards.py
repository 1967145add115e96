"""What scores responses, by its name."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class RewardParameters(BaseModel):
    """A reward of `rao_kedro.rewards`.

    Attributes:
        name: One of `rao_kedro.rewards.reward_names()`.
        parameters: Its own parameters.
        defaults: What the pipeline sets where the reward takes it and `parameters` does not: the catalog's models, the
            precision, where a judge's answers are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "bradley_terry"
    parameters: dict[str, Any] = {}
    defaults: dict[str, Any] = {}

    def with_defaults(self, reward_model: Path, sft_model: Path, mixed_precision: str, workspace: Path) -> Self:
        """Return the reward with the defaults of a pipeline."""
        defaults = {
            "model_dir": str(reward_model),
            "reference_dir": str(sft_model),
            "mixed_precision": mixed_precision,
            "cache_dir": str(workspace / "answers"),
        }
        return self.model_copy(update={"defaults": defaults})
