"""What the squared-error objectives share: `mean (r - b(x) - beta h)^2`, each with its own baseline b."""

from abc import abstractmethod

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput
from rao_kedro.objectives.log_z0 import Reduction
from rao_kedro.objectives.metrics import pair_metrics, target_metrics


def mean_square(
    residuals: Tensor, mask: Tensor, reduction: Reduction = "prompt_mean", threshold: float | None = None
) -> Tensor:
    """Return the mean of squared residuals.

    Args:
        residuals: `[G, K]`, in reward units.
        mask: `[G, K]` True where a response exists.
        reduction: Mean over a group's responses, then over groups; or over all responses (`flat`).
        threshold: Where the square of a residual goes on as its tangent (Huber 1964), in reward units; None: nowhere.
    """
    residuals = residuals.masked_fill(~mask, 0.0)
    squares = residuals.square()
    if threshold is not None:
        far = residuals.abs()
        squares = torch.where(far > threshold, threshold * (2 * far - threshold), squares)
    if reduction == "flat":
        return squares.sum() / mask.sum().to(squares.dtype)
    return (squares.sum(1) / mask.sum(1)).mean()


def mean_per_group(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `[G, K]` values over the responses of each group, `[G]`."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)


class PointwiseObjective(Objective):
    """Regression of `beta h` on rewards minus a baseline, for any K >= 2; groups may be ragged."""

    @property
    @abstractmethod
    def temperature(self) -> float:
        """Reward units per nat: the paper's beta or tau."""

    @abstractmethod
    def baseline(self, batch: LogProbBatch) -> Tensor:
        """Return b(x_i), `[G]` in reward units."""

    def regressed_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return the rewards that `beta h` is regressed on, `[G, K]`: the explicit ones; needs `rewards`."""
        return batch.require("rewards")[0]

    def residuals(self, batch: LogProbBatch) -> Tensor:
        """Return `r_ij - b(x_i) - beta h_ij`, `[G, K]`; needs `reference` and `rewards`."""
        return self.regressed_rewards(batch) - self.baseline(batch)[:, None] - self.temperature * batch.log_ratio()

    def metrics(self, batch: LogProbBatch) -> dict[str, Tensor]:
        """Return the metrics of a batch."""
        log_z = self.baseline(batch).detach() / self.temperature
        target = self.regressed_rewards(batch) / self.temperature - log_z[:, None]
        return pair_metrics(batch, self.temperature * batch.log_ratio()) | target_metrics(batch, target, log_z)

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the mean squared residual and the metrics of a batch."""
        return ObjectiveOutput(mean_square(self.residuals(batch), batch.mask), self.metrics(batch))
