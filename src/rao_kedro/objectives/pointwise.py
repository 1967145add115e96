"""The kernel of every squared-error objective: `mean (r - b(x) - beta h)^2`, each with a baseline b of its own."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, ObjectiveOutput
from rao_kedro.objectives.calibration import Reduction
from rao_kedro.objectives.metrics import pair_metrics, target_metrics


def squared_errors(residuals: Tensor, mask: Tensor, reduction: Reduction = "prompt_mean") -> tuple[Tensor, Tensor]:
    """Return the mean of squared residuals, and over how many units it runs.

    Args:
        residuals: `[G, K]`, in reward units.
        mask: `[G, K]` True where a response exists.
        reduction: Mean over a group's responses, then over groups; or over all responses (`flat`).
    """
    squares = residuals.masked_fill(~mask, 0.0).square()
    if reduction == "flat":
        n_responses = mask.sum().to(squares.dtype)
        return squares.sum() / n_responses, n_responses
    return (squares.sum(1) / mask.sum(1)).mean(), torch.tensor(float(len(squares)), device=squares.device)


class PointwiseObjective(ABC):
    """Regression of `beta h` on rewards less a baseline; any K >= 2, groups may be ragged."""

    pairwise: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    prompt_gradient: ClassVar[Literal["none"]] = "none"

    @property
    @abstractmethod
    def temperature(self) -> float:
        """Reward units per nat: the paper's beta or tau."""

    @abstractmethod
    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return b(x_i), `[G]` in reward units."""

    def residuals(self, batch: LogProbBatch) -> Tensor:
        """Return `r_ij - b(x_i) - beta h_ij`, `[G, K]`; needs `reference` and `rewards`."""
        (rewards,) = batch.require("rewards")
        return rewards - self.baseline(batch)[:, None] - self.temperature * batch.log_ratio()

    def metrics(self, batch: LogProbBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch."""
        log_z = self.baseline(batch).detach() / self.temperature
        return pair_metrics(batch, self.temperature * batch.log_ratio()) | target_metrics(
            batch, self.temperature, log_z
        )

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the mean squared residual and the metrics of a batch."""
        loss, weight = squared_errors(self.residuals(batch), batch.mask)
        return ObjectiveOutput(loss, weight, self.metrics(batch))


def group_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over a group's responses, `[G]`."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)
