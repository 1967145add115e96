"""Simple Preference Optimization (Meng et al. 2024, eq. 6): length-normalised, no reference."""

from dataclasses import dataclass

from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite, require_positive
from rao_kedro.objectives.pairwise import LogSigmoidObjective


@dataclass(frozen=True)
class SimPO(LogSigmoidObjective):
    """`L = -log sigmoid(beta (avg log pi(y_w) - avg log pi(y_l)) - gamma)`.

    Attributes:
        beta: Scale of the mean log-prob per token, implicit reward per nat.
        gamma: Target margin of implicit rewards; gamma itself, not its ratio to beta.
    """

    beta: float = 2.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_positive("beta", self.beta)
        require_finite("gamma", self.gamma, at_least=0)

    def logits(self, batch: LogProbBatch) -> Tensor:
        """Return `beta (avg_w - avg_l) - gamma`, `[G]`; needs `lengths`."""
        rewards = self.implicit_rewards(batch)
        return rewards[:, 0] - rewards[:, 1] - self.gamma

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `beta / |y_ij| log pi(y_ij|x_i)`, `[G, K]`."""
        return self.beta * batch.mean_token_logps()
