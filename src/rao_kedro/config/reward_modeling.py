"""Parameters of the reward_modeling pipeline."""

from typing import Literal

from pydantic import Field

from rao_kedro.config.base import Parameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import TrainingParameters


class RewardModelingParameters(Parameters):
    """The reward_modeling pipeline.

    Attributes:
        reward: Where the rewards of the alignment come from. A Bradley-Terry reward model is trained in any case.
        clip: Rewards further than this many robust standard deviations from the median of the training split are set
            there (see `rao_kedro.rewards.outliers`), before they are standardised; the raw ones are kept beside them.
        normalisation: "standardise" gives the rewards mean 0 and standard deviation 1 over the training split; the raw
            ones are kept beside them.
        start: What the reward model is trained from: `sft_model` or `base_model` of the catalog, or another model's
            directory or hub name: a causal LM, or a sequence classifier with one label.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        margin: The better response is to lead by this much reward per unit of rating between the two.
        training: Parameters of the loop.
    """

    reward: RewardParameters = RewardParameters()
    clip: float | None = Field(None, gt=0)
    normalisation: Literal["none", "standardise"] = "none"
    start: str = "sft_model"
    centering: float = Field(0.01, ge=0)
    margin: float = Field(0.0, ge=0)
    training: TrainingParameters
