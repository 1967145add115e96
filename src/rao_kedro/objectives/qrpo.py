"""Quantile Reward Policy Optimization (Matrenok, Moalla, Gulcehre 2025, arXiv 2507.08068): log Z is known exactly."""

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogpReduction, LogProbBatch, require_choice, require_positive
from rao_kedro.objectives.metrics import pair_metrics, target_metrics
from rao_kedro.objectives.pointwise import PointwiseObjective


@dataclass(frozen=True)
class QRPO(PointwiseObjective):
    """`L = mean_j (q_j - beta log Z - beta h_j)^2` with `q_j = Pr_{y' ~ pi_ref}(r(x, y') <= r_j)`.

    Quantiles of the reference's own rewards are uniform in [0, 1], if no two responses have the same reward. So
    `Z = E exp(q / beta) = beta (e^{1/beta} - 1)` for every prompt.

    Attributes:
        beta: Strength of the KL constraint, quantiles per nat.
        logp_reduction: `sum` over a response's tokens, or their `mean`, which makes beta quantiles per nat of a token.
    """

    beta: float = 0.1
    logp_reduction: LogpReduction = "sum"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        require_choice("logp_reduction", self.logp_reduction, get_args(LogpReduction))

    @property
    def temperature(self) -> float | None:  # type: ignore[override]  # of mean log-probs there is none per nat
        """Return beta; None for mean log-probs, where beta is per nat of a token, not of a response."""
        return self.beta if self.logp_reduction == "sum" else None

    @property
    def log_z(self) -> float:
        """Return `log Z = log(beta (e^{1/beta} - 1))` in nats, which neither overflows nor cancels."""
        return math.log(self.beta) + 1 / self.beta + math.log(-math.expm1(-1 / self.beta))

    def regressed_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return the quantiles q, `[G, K]`; needs `rewards` and `reference_rewards`."""
        rewards, reference = batch.require("rewards", "reference_rewards")
        at_most = reference[:, None, :] <= rewards[:, :, None]  # never where the padding is NaN
        return at_most.sum(2).to(rewards.dtype) / (~reference.isnan()).sum(1, keepdim=True)

    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return `beta log Z`, `[G]` in quantiles."""
        return torch.full_like(batch.policy[:, 0], self.beta * self.log_z)

    def residuals(self, batch: LogProbBatch) -> Tensor:
        """Return `q_ij - beta log Z - beta h_ij`, `[G, K]`; needs `reference` and what quantiles need."""
        h = batch.log_ratio(self.logp_reduction)
        return self.regressed_rewards(batch) - self.baseline(batch)[:, None] - self.beta * h

    def metrics(self, batch: LogProbBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch; targets are those of whole responses, also for mean log-probs."""
        log_z = self.baseline(batch).detach() / self.beta
        target = self.regressed_rewards(batch) / self.beta - log_z[:, None]
        if self.logp_reduction == "mean":
            target = target * batch.require("lengths")[0]
        implicit_rewards = self.beta * batch.log_ratio(self.logp_reduction)
        return pair_metrics(batch, implicit_rewards) | target_metrics(batch, target, log_z)
