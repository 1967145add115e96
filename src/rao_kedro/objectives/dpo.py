"""Direct Preference Optimization (Rafailov et al. 2023, eq. 7) with optional label smoothing (cDPO)."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_positive
from rao_kedro.objectives.pairwise import ReferencePairwiseObjective


@dataclass(frozen=True)
class DPO(ReferencePairwiseObjective):
    """`L = -log sigmoid(beta (h_w - h_l))`.

    Attributes:
        beta: Strength of the KL constraint, implicit reward per nat.
        label_smoothing: Probability that a preference label is flipped, in [0, 0.5).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")

    def losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; needs `reference`."""
        h = batch.log_ratio()
        logits = self.beta * (h[:, 0] - h[:, 1])
        return -(1 - self.label_smoothing) * F.logsigmoid(logits) - self.label_smoothing * F.logsigmoid(-logits)

    def expected_initial_loss(self) -> float:
        """Return ln 2: both log-ratios are 0."""
        return math.log(2)
