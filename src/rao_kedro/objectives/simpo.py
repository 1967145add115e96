"""Simple Preference Optimization (Meng et al. 2024, eq. 6): length-normalised, no reference."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite, require_positive
from rao_kedro.objectives.pairwise import PairwiseObjective


@dataclass(frozen=True)
class SimPO(PairwiseObjective):
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
        require_positive("beta", self.beta)
        require_finite("gamma", self.gamma, at_least=0)

    def losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; needs `lengths`."""
        rewards = self.implicit_rewards(batch)
        return -F.logsigmoid(rewards[:, 0] - rewards[:, 1] - self.gamma)

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `beta / |y_ij| log pi(y_ij|x_i)`, `[G, K]`."""
        return self.beta * batch.mean_token_logps()
