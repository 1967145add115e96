"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, "Back to Basics", section 3.2; Kool et al. 2019)."""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput, require_finite, require_positive
from rao_kedro.objectives.metrics import pair_metrics
from rao_kedro.objectives.pointwise import mean_per_group


@dataclass(frozen=True)
class RLOO(Objective):
    """`-mean_j A_j rho_j`, clipped as in PPO, with `rho = exp(log pi - log pi_sampling)` of a whole response.

    `A_j = R_j - mean_(k != j) R_k` with `R = r - beta (log pi_sampling - log pi_ref)`. Where the policy is the one that
    sampled, the ratios are 1, and the gradient is that of `-A_j log pi(y_j|x)`.

    Attributes:
        beta: Strength of the KL penalty, reward units per nat.
        clip_range: The probability ratio of a response is clipped to 1 +- this.
        normalise_advantages: Divides advantages by their standard deviation over all sampled responses. Their mean is 0
            in every group.
        scale: What advantages are divided by; `calibrate_to_samples` sets it.
    """

    beta: float = 0.05
    clip_range: float = 0.2
    normalise_advantages: bool = False
    scale: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_finite("beta", self.beta, at_least=0)
        require_positive("clip_range", self.clip_range)

    @property
    def temperature(self) -> float | None:
        """Return beta; None without a KL penalty."""
        return self.beta or None

    def advantages(self, batch: LogProbBatch) -> Tensor:
        """Return A_ij before scaling, `[G, K]` in reward units, 0 where masked.

        Needs `rewards`, `sampling` and `reference`.
        """
        rewards, sampling, reference = batch.require("rewards", "sampling", "reference")
        with torch.no_grad():
            penalised = (rewards - self.beta * (sampling - reference)).masked_fill(~batch.mask, 0.0)
            others = batch.mask.sum(1, keepdim=True) - 1
            baseline = (penalised.sum(1, keepdim=True) - penalised) / others
            return (penalised - baseline).masked_fill(~batch.mask, 0.0)

    def calibrate_to_samples(self, batch: LogProbBatch) -> Self:
        """Return the objective with the scale of the advantages of all sampled responses, if it normalises them."""
        if not self.normalise_advantages:
            return self
        deviation = float(self.advantages(batch)[batch.mask].square().mean().sqrt())
        scaled = replace(self)
        object.__setattr__(scaled, "scale", deviation + 1e-4)  # the constant of TRL, for rewards that are all equal
        return scaled

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss, a mean over the responses of a group, then over groups; and the metrics of a batch."""
        (sampling,) = batch.require("sampling")
        advantages = self.advantages(batch) / self.scale
        log_ratio = (batch.policy - sampling).masked_fill(~batch.mask, 0.0)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        losses = torch.maximum(-advantages * ratio, -advantages * clipped)
        with torch.no_grad():
            metrics = {
                "clip_fraction": mean_per_group((ratio != clipped).float(), batch.mask).mean(),
                "approximate_kl": mean_per_group(0.5 * log_ratio.square(), batch.mask).mean(),
                "advantage_variance": mean_per_group(advantages.square(), batch.mask).mean(),
            }
        metrics |= pair_metrics(batch, self.beta * batch.log_ratio())
        return ObjectiveOutput(mean_per_group(losses, batch.mask).mean(), metrics)
