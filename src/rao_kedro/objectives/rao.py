"""Reward Alignment Optimization: point-wise regression onto the log-probability that a reward implies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, ObjectiveOutput, require_choice, require_finite, require_positive
from rao_kedro.objectives.calibration import Reduction, calibrated_log_z0
from rao_kedro.objectives.pointwise import PointwiseObjective, squared_errors

PromptTerm = Literal["detached", "attached", "none"]
GradientScale = Literal["none", "inverse_beta", "inverse_beta_squared"]


@dataclass(frozen=True)
class RAO(PointwiseObjective):
    """`L = mean_i 1/K_i sum_j (r_ij - beta h_ij - beta log Z_i)^2` with `log Z_i = log_z0 + sg[D_i]`.

    Paper: Algorithm 1, line 7 (detached) and eq. 8 (attached). Any K >= 2, groups may be ragged.

    Attributes:
        beta: Strength of the KL constraint, reward units per nat.
        log_z0: log Z_0 in nats, the one hyperparameter that ties all prompts together by prefix consistency; "auto"
            solves `mean target log-ratio = margin` from the rewards: the batch's here, all training groups' in a run.
        margin: Of "auto", in nats; above 0 raises the likelihood of the average response.
        prompt_term: How D_i enters log Z_i: with its gradient stopped, with its gradient, or not at all.
        reduction: Mean over a prompt's responses, then over prompts (paper); or over all responses (`flat`).
        gradient_scale: Multiplies the loss by 1, 1/beta or 1/beta^2, since plain steps shrink with beta.
    """

    beta: float = 0.1
    log_z0: float | Literal["auto"] = 50.0
    margin: float = 0.0
    prompt_term: PromptTerm = "detached"
    reduction: Reduction = "prompt_mean"
    gradient_scale: GradientScale = "none"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        require_finite("margin", self.margin)
        if self.log_z0 != "auto":
            require_finite('log_z0 other than "auto"', self.log_z0)
            if self.margin:
                raise ValueError(f'margin belongs to log_z0 "auto", but log_z0 is {self.log_z0!r}')
        require_choice("prompt_term", self.prompt_term, get_args(PromptTerm))
        require_choice("reduction", self.reduction, get_args(Reduction))
        require_choice("gradient_scale", self.gradient_scale, get_args(GradientScale))

    @property
    def temperature(self) -> float:
        """Return beta."""
        return self.beta

    @property
    def prompt_gradient(self) -> PromptTerm:  # type: ignore[override]  # the other pointwise objectives read no prompt
        """Whether D_i is read, and with its gradient or without."""
        return self.prompt_term

    def log_z(self, batch: LogProbBatch) -> Tensor:
        """Return `log Z_i`, `[G]` in nats."""
        log_z0 = torch.full_like(batch.policy[:, 0], self.solved_log_z0(batch)).detach()
        if self.prompt_term == "none":
            return log_z0
        prompt_log_ratio = batch.prompt_log_ratio()
        return log_z0 + (prompt_log_ratio.detach() if self.prompt_term == "detached" else prompt_log_ratio)

    def calibrate(self, rewards: Iterable[Sequence[float]]) -> "RAO":
        """Return the objective with log_z0 "auto" solved from rewards `[groups][responses]`, under its reduction."""
        if self.log_z0 != "auto":
            return self
        return replace(self, log_z0=calibrated_log_z0(rewards, self.beta, self.margin, self.reduction), margin=0.0)

    def solved_log_z0(self, batch: LogProbBatch) -> float:
        """Return log Z_0 in nats; "auto" needs `rewards`."""
        if self.log_z0 != "auto":
            return self.log_z0
        (rewards,) = batch.require("rewards")
        given = [row[there].tolist() for row, there in zip(rewards, batch.mask, strict=True)]
        return float(self.calibrate(given).log_z0)

    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return `beta log Z_i`; needs the prompt log-probs unless `prompt_term` is none."""
        return self.beta * self.log_z(batch)

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss and the metrics of a batch."""
        loss, weight = squared_errors(self.residuals(batch), batch.mask, self.reduction)
        scale = {"none": 1.0, "inverse_beta": 1 / self.beta, "inverse_beta_squared": self.beta**-2}
        metrics = self.metrics(batch)
        metrics["prompt_log_ratio"] = metrics["log_z"] - self.solved_log_z0(batch)
        return ObjectiveOutput(scale[self.gradient_scale] * loss, weight, metrics)
