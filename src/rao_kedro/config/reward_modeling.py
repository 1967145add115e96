"""Parameters of the reward_modeling pipeline."""

from typing import Literal

from pydantic import Field

from rao_kedro.config.base import Parameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import TrainingParameters


class RewardModelingParameters(Parameters):
    """The reward_modeling pipeline.

    Attributes:
        reward: The reward that annotates responses for the alignment. A Bradley-Terry reward model is trained in any
            case.
        clip: Rewards are clipped to this many robust standard deviations around the median of the training split (see
            `rao_kedro.rewards.outliers`), before they are standardised. The raw rewards are kept.
        normalisation: `standardise` gives rewards mean 0 and standard deviation 1 over the training split. The raw
            rewards are kept.
        start: The model that the training starts from: `sft_model` or `base_model` of the catalog, or the directory or
            hub name of a causal LM or of a sequence classifier with one label.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        margin: Reward by which the better response leads, per unit of rating between the two.
        training: Settings of the training loop.
    """

    reward: RewardParameters = RewardParameters()
    clip: float | None = Field(None, gt=0)
    normalisation: Literal["none", "standardise"] = "none"
    start: str = "sft_model"
    centering: float = Field(0.01, ge=0)
    margin: float = Field(0.0, ge=0)
    training: TrainingParameters
