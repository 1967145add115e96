"""DPO-Positive (Pal et al. 2024, "Smaug", arXiv 2402.13228)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite, require_positive
from rao_kedro.objectives.pairwise import ReferencePairwiseObjective


@dataclass(frozen=True)
class DPOP(ReferencePairwiseObjective):
    """`L = -log sigmoid(beta (h_w - h_l - lambda max(0, -h_w)))`: penalises a fall of the chosen likelihood.

    Attributes:
        beta: Strength of the KL constraint, implicit reward per nat.
        lambda_: Weight of the penalty.
    """

    beta: float = 0.1
    lambda_: float = 50.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        require_finite("lambda", self.lambda_, at_least=0)

    def losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; needs `reference`."""
        h = batch.log_ratio()
        penalty = (-h[:, 0]).clamp(min=0)
        return -F.logsigmoid(self.beta * (h[:, 0] - h[:, 1] - self.lambda_ * penalty))
