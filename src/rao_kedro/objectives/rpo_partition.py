"""Reward Partitioning Optimization (Faye et al. 2025, arXiv 2506.13702): Z estimated from the group itself."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_positive
from rao_kedro.objectives.pointwise import PointwiseObjective


@dataclass(frozen=True)
class RewardPartitioning(PointwiseObjective):
    """`L = (r - b_i - tau h)^2` with `b_i = tau log sum_j pi_ref(y_ij|x_i) exp(r_ij / tau)`.

    Attributes:
        tau: Strength of the KL constraint, reward units per nat.
    """

    tau: float = 0.1

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
        """Return b_i; needs `reference` and `rewards`."""
        reference, rewards = batch.require("reference", "rewards")
        exponents = (reference + rewards / self.tau).masked_fill(~batch.mask, -math.inf)
        return self.tau * torch.logsumexp(exponents, 1)
