"""Reward model distillation (Fisch et al. 2024, arXiv 2405.19316): implicit reward gaps regressed on reward gaps."""

from abc import abstractmethod
from dataclasses import dataclass

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput, require_positive
from rao_kedro.objectives.metrics import pair_metrics


class PairedRegression(Objective):
    """Regression of implicit reward gaps on reward gaps: a mean over all pairs of a group, then over groups."""

    @property
    @abstractmethod
    def temperature(self) -> float:
        """Reward units per nat."""

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss and the metrics of a batch; needs `reference` and `rewards`."""
        (rewards,) = batch.require("rewards")
        implicit = self.temperature * batch.log_ratio()
        difference = rewards - implicit
        gaps = difference[:, :, None] - difference[:, None, :]
        pairs = (batch.mask[:, :, None] & batch.mask[:, None, :]).triu(diagonal=1)
        losses = gaps.masked_fill(~pairs, 0.0).square().sum((1, 2)) / pairs.sum((1, 2))
        return ObjectiveOutput(losses.mean(), pair_metrics(batch, implicit))


@dataclass(frozen=True)
class RewardDistillation(PairedRegression):
    """`L = ((r_1 - r_2) - beta (h_1 - h_2))^2`.

    Attributes:
        beta: Strength of the KL constraint, reward units per nat.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)

    @property
    def temperature(self) -> float:
        """Return beta."""
        return self.beta
