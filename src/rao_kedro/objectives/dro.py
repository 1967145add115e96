"""Direct Reward Optimization with a value network, DRO-V (Richemond et al. 2024, arXiv 2405.19107, algorithm 1)."""

from dataclasses import dataclass

from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, ObjectiveOutput, require_positive
from rao_kedro.objectives.pointwise import PointwiseObjective, mean_square


@dataclass(frozen=True)
class DRO(PointwiseObjective):
    """`L = 1/2 (r - V(x) - tau h)^2` for the policy and for the value network, each with the other's gradient stopped.

    The policy's loss is divided by tau: so is its gradient in the paper.

    Attributes:
        tau: Strength of the KL constraint, reward units per nat.
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("tau", self.tau)

    @property
    def temperature(self) -> float:
        """Return tau."""
        return self.tau

    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return V(x_i); needs `values`."""
        return batch.require("values")[0]

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the sum of both losses, and the metrics of a batch; needs `reference`, `rewards` and `values`."""
        rewards, values = batch.require("rewards", "values")
        achieved = self.tau * batch.log_ratio()
        policy_loss = mean_square(rewards - values.detach()[:, None] - achieved, batch.mask)
        value_loss = mean_square(rewards - values[:, None] - achieved.detach(), batch.mask)
        metrics = self.metrics(batch) | {"value_loss": 0.5 * value_loss.detach(), "value": values.detach().mean()}
        return ObjectiveOutput(0.5 * policy_loss / self.tau + 0.5 * value_loss, metrics)
