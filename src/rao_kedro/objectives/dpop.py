"""DPO-Positive (Pal et al. 2024, "Smaug", arXiv 2402.13228)."""

from dataclasses import dataclass

from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite, require_positive
from rao_kedro.objectives.pairwise import LogSigmoidObjective, ReferencePairwiseObjective


@dataclass(frozen=True)
class DPOP(LogSigmoidObjective, ReferencePairwiseObjective):
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
        super().__post_init__()
        require_positive("beta", self.beta)
        require_finite("lambda", self.lambda_, at_least=0)

    def logits(self, batch: LogProbBatch) -> Tensor:
        """Return `beta (h_w - h_l - lambda max(0, -h_w))`, `[G]`; needs `reference`."""
        h = batch.log_ratio()
        penalty = (-h[:, 0]).clamp(min=0)
        return self.beta * (h[:, 0] - h[:, 1] - self.lambda_ * penalty)
