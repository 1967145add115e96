"""Policy optimisation of Kimi k1.5 (arXiv 2501.12599, section 2.3): the baseline is a statistic of the group."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_choice, require_positive
from rao_kedro.objectives.pointwise import PointwiseObjective, mean_per_group

Baseline = Literal["mean", "log_mean_exp"]


@dataclass(frozen=True)
class KimiK15(PointwiseObjective):
    """`L = (r - b_i - tau h)^2` with `b_i = mean_j r_ij` or `tau log mean_j exp(r_ij / tau)`.

    Attributes:
        tau: Strength of the KL constraint, reward units per nat.
        group_baseline: `mean` (what the paper uses), or `log_mean_exp` (what it approximates).
    """

    tau: float = 0.1
    group_baseline: Baseline = "mean"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("tau", self.tau)
        require_choice("group_baseline", self.group_baseline, get_args(Baseline))

    @property
    def temperature(self) -> float:
        """Return tau."""
        return self.tau

    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return b_i; needs `rewards`."""
        (rewards,) = batch.require("rewards")
        if self.group_baseline == "mean":
            return mean_per_group(rewards, batch.mask)
        exponents = (rewards / self.tau).masked_fill(~batch.mask, -math.inf)
        return self.tau * (torch.logsumexp(exponents, 1) - batch.mask.sum(1).to(rewards.dtype).log())
