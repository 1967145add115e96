"""Parameters of the reward_modeling pipeline."""

from typing import Literal

from pydantic import Field

from rao_kedro.config.base import Parameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import TrainingParameters

Normalisation = Literal["none", "standardise", "quantile", "quantile_per_prompt"]


class RewardModelingParameters(Parameters):
    """The reward_modeling pipeline.

    Raw rewards become the rewards to train with by `length_penalty`, `clip` and `normalisation`, in this order (see
    `rao_kedro.rewards.transforms`). The raw rewards are kept.

    Attributes:
        reward: The reward that annotates responses for the alignment. A Bradley-Terry reward model is trained in any
            case.
        length_penalty: Subtracted from the raw reward for every token of the response, in units of the raw reward.
        clip: Rewards are clipped to this many robust standard deviations around the median of the training split (see
            `rao_kedro.rewards.outliers`).
        normalisation: `standardise` gives rewards mean 0 and standard deviation 1 over the training split. `quantile`
            replaces a reward by the share of the training split's rewards below it, `quantile_per_prompt` by the share
            of those of its prompt; both lie between 0 and 1, and a tie counts one half.
        start: The model that the training starts from: `sft_model` or `base_model` of the catalog, or the directory or
            hub name of a causal LM or of a sequence classifier with one label.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        margin: Reward by which the better response leads, per unit of rating between the two.
        training: Settings of the training loop.
    """

    reward: RewardParameters = RewardParameters()
    length_penalty: float = Field(0.0, ge=0, allow_inf_nan=False)
    clip: float | None = Field(None, gt=0)
    normalisation: Normalisation = "none"
    start: str = "sft_model"
    centering: float = Field(0.01, ge=0)
    margin: float = Field(0.0, ge=0)
    training: TrainingParameters
