"""DPO-Shift (Yang et al. 2025, arXiv 2502.07599): the rejected log-ratio has a smaller weight."""

from dataclasses import dataclass

from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite, require_positive
from rao_kedro.objectives.pairwise import LogSigmoidObjective, ReferencePairwiseObjective


@dataclass(frozen=True)
class DPOShift(LogSigmoidObjective, ReferencePairwiseObjective):
    """`L = -log sigmoid(beta (h_w - f h_l))`.

    Attributes:
        beta: Strength of the KL constraint, implicit reward per nat.
        f: Weight of the rejected log-ratio at the first step.
        f_end: Weight at the last step, with a linear schedule; None keeps `f`.
    """

    beta: float = 0.1
    f: float = 0.95
    f_end: float | None = None

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_positive("beta", self.beta)
        require_finite("f", self.f, at_least=0)
        if self.f_end is not None:
            require_finite("f_end", self.f_end, at_least=0)

    def logits(self, batch: LogProbBatch) -> Tensor:
        """Return `beta (h_w - f h_l)`, `[G]`; needs `reference`, and `progress` for the schedule."""
        f = self.f if self.f_end is None else self.f + (self.f_end - self.f) * batch.progress
        h = batch.log_ratio()
        return self.beta * (h[:, 0] - f * h[:, 1])
