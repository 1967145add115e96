"""Calibrated DPO (Xiao et al. 2024, arXiv 2412.14516)."""

from dataclasses import dataclass

from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite, require_positive
from rao_kedro.objectives.pairwise import LogSigmoidObjective, ReferencePairwiseObjective


@dataclass(frozen=True)
class CalDPO(LogSigmoidObjective, ReferencePairwiseObjective):
    """`L = -log sigmoid(h_w - h_l) + c ((h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2)`, without beta in the sigmoid.

    Attributes:
        beta: The log-ratios are calibrated to +-1/(2 beta) nats.
        calibration_weight: c; 1 in the paper, 0.5 in its authors' code.
    """

    beta: float = 0.1
    calibration_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_positive("beta", self.beta)
        require_finite("calibration_weight", self.calibration_weight, at_least=0)

    def logits(self, batch: LogProbBatch) -> Tensor:
        """Return `h_w - h_l`, `[G]`; needs `reference`."""
        h = batch.log_ratio()
        return h[:, 0] - h[:, 1]

    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`."""
        h, target = batch.log_ratio(), 1 / (2 * self.beta)
        calibration = (h[:, 0] - target).square() + (h[:, 1] + target).square()
        return super().pair_losses(batch) + self.calibration_weight * calibration
