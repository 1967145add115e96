"""Reward Alignment Optimization: point-wise regression onto the log-probability that a reward implies."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from rao_kedro.objectives.base import (
    LogProbBatch,
    ObjectiveOutput,
    PromptGradient,
    require_choice,
    require_finite,
    require_positive,
)
from rao_kedro.objectives.log_z0 import Reduction, estimate_log_z0, largest_raising_log_z0, solve_log_z0
from rao_kedro.objectives.pointwise import PointwiseObjective, mean_square

GradientScale = Literal["none", "inverse_beta", "inverse_beta_squared"]


@dataclass(frozen=True)
class RAO(PointwiseObjective):
    """`L = mean_i 1/K_i sum_j (r_ij - beta h_ij - beta log Z_i)^2` with `log Z_i = log_z0 + sg[D_i]`.

    Li, Leng, Song, Hu: "Reward Alignment Optimization" (ACL 2026), Algorithm 1, line 7 (detached) and eq. 8 (attached).

    Attributes:
        beta: Strength of the KL constraint, reward units per nat.
        log_z0: log Z_0 in nats, the normaliser of the prefix t_0 that all prompts share. "auto" solves it so that the
            mean target log-ratio is `margin`: from the batch's rewards, or from all training rewards after `calibrate`.
            "estimated" takes the mean log Z(x) of the prompts, estimated from rewards of responses that the reference
            wrote (`log_z0.estimate_log_z0`): from the batch's, or from those of all training prompts.
        margin: Mean target log-ratio of "auto", in nats; a positive one raises the likelihood of the average response.
        prompt_term: Whether D_i enters log Z_i with its gradient stopped, with its gradient, or not at all.
        reduction: Mean over a group's responses, then over groups (paper); or over all responses (`flat`).
        gradient_scale: Multiplies the loss by 1, 1/beta or 1/beta^2: the gradient shrinks with beta.
        loss: The square of a residual (paper), or Huber's loss: beyond `huber_threshold` it goes on as a straight line,
            so that a reward far from all others pulls no harder than one at the threshold.
        huber_threshold: The distance between a log-ratio and its target from which the line begins, in nats.
    """

    beta: float = 0.1
    log_z0: float | Literal["auto", "estimated"] = 50.0
    margin: float = 0.0
    prompt_term: PromptGradient = "detached"
    reduction: Reduction = "prompt_mean"
    gradient_scale: GradientScale = "none"
    loss: Literal["squared", "huber"] = "squared"
    huber_threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        require_finite("margin", self.margin)
        if self.log_z0 != "auto" and self.log_z0 != "estimated":
            require_finite('log_z0 other than "auto" and "estimated"', self.log_z0)
        if self.log_z0 != "auto" and self.margin:
            raise ValueError(f'margin belongs to log_z0 "auto", but log_z0 is {self.log_z0!r}')
        require_choice("prompt_term", self.prompt_term, get_args(PromptGradient))
        require_choice("reduction", self.reduction, get_args(Reduction))
        require_choice("gradient_scale", self.gradient_scale, get_args(GradientScale))
        require_choice("loss", self.loss, ("squared", "huber"))
        if self.loss == "huber":
            require_positive("huber_threshold", self.huber_threshold or 0.0)
        elif self.huber_threshold is not None:
            raise ValueError(f"huber_threshold belongs to loss huber, but loss is {self.loss}")

    @property
    def temperature(self) -> float:
        """Return beta."""
        return self.beta

    @property
    def prompt_gradient(self) -> PromptGradient:
        """Return `prompt_term`, which is what the parameters call it."""
        return self.prompt_term

    @property
    def loss_is_mean_over(self) -> Literal["groups", "responses"]:
        """Return responses for a flat reduction."""
        return "responses" if self.reduction == "flat" else "groups"

    def solve_log_z0(
        self, rewards: Sequence[Sequence[float]], reference_rewards: Sequence[Sequence[float]] | None = None
    ) -> float | None:
        """Return log_z0 in nats, where it is "auto" or "estimated".

        Args:
            rewards: Of the training responses, `[groups][responses]`; "auto" solves under the objective's reduction.
            reference_rewards: Of responses sampled from the reference, `[groups][samples]`, for "estimated".

        Returns:
            None for a number, and for "estimated" without reference rewards.
        """
        if self.log_z0 == "auto":
            return solve_log_z0(rewards, self.beta, self.margin, self.reduction)
        if self.log_z0 == "estimated" and reference_rewards is not None:
            return estimate_log_z0(reference_rewards, self.beta).value
        return None

    def calibrate(
        self, rewards: Sequence[Sequence[float]], reference_rewards: Sequence[Sequence[float]] | None = None
    ) -> Self:
        """Return the objective with log_z0 solved from the arguments of `solve_log_z0`, where it is no number."""
        solved = self.solve_log_z0(rewards, reference_rewards)
        return self if solved is None else replace(self, log_z0=solved, margin=0.0)

    def calibrate_to_batch(self, batch: LogProbBatch) -> Self:
        """Return the objective with log_z0 solved from the batch's own `rewards` or `reference_rewards`."""
        if self.log_z0 == "estimated":
            (sampled,) = batch.require("reference_rewards")
            return self.calibrate([], [row[~row.isnan()].tolist() for row in sampled])
        if self.log_z0 == "auto":
            (rewards,) = batch.require("rewards")
            return self.calibrate([row[there].tolist() for row, there in zip(rewards, batch.mask, strict=True)])
        return self

    def remark_on_targets(self, chosen_rewards: Sequence[float]) -> str | None:
        """Return a sentence if log_z0 is a number that lowers the likelihood of the average chosen response."""
        if isinstance(self.log_z0, str):
            return None
        log_z0 = self.log_z0
        target = fmean(chosen_rewards) / self.beta - log_z0
        if target >= 0:
            return None
        down = fmean(reward <= self.beta * log_z0 for reward in chosen_rewards)
        return (
            f"log_z0 = {log_z0:g} nats makes the chosen responses less likely than under the reference: their mean "
            f"target log-ratio is {target:.2f} nats, and {down:.0%} of them have a target below 0. "
            f"log_z0 <= {largest_raising_log_z0(chosen_rewards, self.beta):.2f} raises the mean target above 0, "
            f"log_z0 <= {min(chosen_rewards) / self.beta:.2f} raises every target above 0."
        )

    def log_z(self, batch: LogProbBatch) -> Tensor:
        """Return `log Z_i = log_z0 + D_i`, `[G]` in nats; needs the prompt log-probs unless `prompt_term` is none."""
        log_z0 = torch.full_like(batch.policy[:, 0], float(self.calibrate_to_batch(batch).log_z0))
        if self.prompt_term == "none":
            return log_z0
        prompt_log_ratio = batch.prompt_log_ratio()
        if self.prompt_term == "detached":
            prompt_log_ratio = prompt_log_ratio.detach()  # Algorithm 1, line 7: stop-gradient
        return log_z0 + prompt_log_ratio

    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return `beta log Z_i`, `[G]` in reward units."""
        return self.beta * self.log_z(batch)

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss and the metrics of a batch; needs `reference`, `rewards` and what `log_z` needs."""
        if isinstance(self.log_z0, str):
            return self.calibrate_to_batch(batch)(batch)
        scale = {"none": 1.0, "inverse_beta": 1 / self.beta, "inverse_beta_squared": self.beta**-2}
        threshold = None if self.huber_threshold is None else self.beta * self.huber_threshold
        mean = mean_square(self.residuals(batch), batch.mask, self.reduction, threshold)
        loss = scale[self.gradient_scale] * mean
        metrics = self.metrics(batch)
        metrics["prompt_log_ratio"] = metrics["log_z"] - self.log_z0
        return ObjectiveOutput(loss, metrics)
