"""Reward Alignment Optimization: point-wise regression onto the log-probability that a reward implies."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from rao_kedro.objectives.base import GroupLogps, ObjectiveOutput, pair_metrics, require_positive

PromptTerm = Literal["detached", "attached", "none"]
Reduction = Literal["prompt_mean", "flat"]
GradientScale = Literal["none", "inverse_beta", "inverse_beta_squared"]


@dataclass(frozen=True)
class RAO:
    """`L = mean_i 1/K_i sum_j (r_ij - beta h_ij - beta log Z_i)^2` with `log Z_i = log_z0 + sg[D_i]`.

    Paper: Algorithm 1, line 7 (detached) and eq. 8 (attached). Any K >= 2, groups may be ragged.

    Attributes:
        beta: Strength of the KL constraint, reward units per nat.
        log_z0: log Z_0 in nats, the one hyperparameter that ties all prompts together by prefix consistency.
        prompt_term: How D_i enters log Z_i: with its gradient stopped, with its gradient, or not at all.
        reduction: Mean over a prompt's responses, then over prompts (paper); or over all responses (`flat`).
        gradient_scale: Multiplies the loss by 1, 1/beta or 1/beta^2, since plain steps shrink with beta.
    """

    beta: float = 0.1
    log_z0: float = 50.0
    prompt_term: PromptTerm = "detached"
    reduction: Reduction = "prompt_mean"
    gradient_scale: GradientScale = "none"

    needs_rewards: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True
    pairwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        if not (isinstance(self.log_z0, (int, float)) and abs(self.log_z0) < float("inf")):
            raise ValueError(f"log_z0 must be a finite number of nats, got {self.log_z0!r}")
        for name, choices in (("prompt_term", PromptTerm), ("reduction", Reduction), ("gradient_scale", GradientScale)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")

    @property
    def prompt_gradient(self) -> PromptTerm:
        """Whether D_i is read, and with its gradient or without."""
        return self.prompt_term

    def log_z(self, batch: GroupLogps) -> Tensor:
        """Return `log Z_i`, `[G]` in nats."""
        if self.prompt_term == "none":
            return torch.full_like(batch.policy[:, 0], self.log_z0).detach()
        prompt_log_ratio = batch.prompt_log_ratio()
        return self.log_z0 + (prompt_log_ratio.detach() if self.prompt_term == "detached" else prompt_log_ratio)

    def __call__(self, batch: GroupLogps) -> ObjectiveOutput:
        """Return the loss; needs `reference`, `rewards` and, unless `prompt_term` is none, the prompt log-probs."""
        (rewards,) = batch.require("rewards")
        h, log_z = batch.log_ratio(), self.log_z(batch)
        residual = (rewards - self.beta * h - self.beta * log_z[:, None]).masked_fill(~batch.mask, 0.0)
        if self.reduction == "prompt_mean":
            losses = residual.square().sum(1) / batch.mask.sum(1)
            weight = torch.tensor(float(len(losses)), device=losses.device)
            loss = losses.mean()
        else:
            weight = batch.mask.sum().to(residual.dtype)
            loss = residual.square().sum() / weight
        scale = {"none": 1.0, "inverse_beta": 1 / self.beta, "inverse_beta_squared": self.beta**-2}
        metrics = pair_metrics(batch, self.beta) | self._metrics(batch, rewards, h.detach(), log_z.detach())
        return ObjectiveOutput(scale[self.gradient_scale] * loss, weight, metrics)

    def _metrics(self, batch: GroupLogps, rewards: Tensor, h: Tensor, log_z: Tensor) -> dict[str, Tensor]:
        target = (rewards / self.beta - log_z[:, None]).masked_fill(~batch.mask, 0.0)
        count = batch.mask.sum()
        return {
            "log_z": log_z.mean(),
            "prompt_log_ratio": log_z.mean() - self.log_z0,
            "target_log_ratio": target.sum() / count,
            "log_ratio_error": ((target - h).square().sum() / count).sqrt(),
            "chosen_target_is_up": (target[:, 0] > 0).float().mean(),
        }
