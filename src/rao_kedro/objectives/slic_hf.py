"""Sequence likelihood calibration with human feedback, SLiC-HF (Zhao et al. 2023, arXiv 2305.10425)."""

from dataclasses import dataclass

from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite
from rao_kedro.objectives.pairwise import PairwiseObjective


@dataclass(frozen=True)
class SLiCHF(PairwiseObjective):
    """`L = max(0, delta - log pi(y_w) + log pi(y_l)) - lambda log pi(y_w)`; no reference.

    Attributes:
        delta: Margin of the hinge, in nats.
        lambda_: Weight of the regulariser, the log-likelihood of the chosen response.
    """

    delta: float = 1.0
    lambda_: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_finite("delta", self.delta, at_least=0)
        require_finite("lambda", self.lambda_, at_least=0)

    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`."""
        chosen, rejected = batch.policy[:, 0], batch.policy[:, 1]
        return (self.delta - chosen + rejected).clamp(min=0) - self.lambda_ * chosen

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `log pi(y_ij|x_i)`, `[G, K]`: the hinge compares these."""
        return batch.policy
