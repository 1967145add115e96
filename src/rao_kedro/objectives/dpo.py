"""Direct Preference Optimization (Rafailov et al. 2023, eq. 7) with optional label smoothing (cDPO)."""

import math
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from rao_kedro.objectives.base import LogpReduction, LogProbBatch, require_choice, require_positive
from rao_kedro.objectives.pairwise import LogSigmoidObjective, ReferencePairwiseObjective


@dataclass(frozen=True)
class DPO(LogSigmoidObjective, ReferencePairwiseObjective):
    """`L = -log sigmoid(beta (h_w - h_l))`.

    Attributes:
        beta: Strength of the KL constraint, implicit reward per nat.
        logp_reduction: `sum` over a response's tokens (paper), or their `mean` (length-normalised DPO, Tulu 3).
    """

    beta: float = 0.1
    logp_reduction: LogpReduction = "sum"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_positive("beta", self.beta)
        require_choice("logp_reduction", self.logp_reduction, get_args(LogpReduction))

    @property
    def temperature(self) -> float | None:
        """Return beta; None for mean log-probs, where beta is per nat of a token, not of a response."""
        return self.beta if self.logp_reduction == "sum" else None

    def logits(self, batch: LogProbBatch) -> Tensor:
        """Return `beta (h_w - h_l)`, `[G]`; needs `reference`."""
        h = batch.log_ratio(self.logp_reduction)
        return self.beta * (h[:, 0] - h[:, 1])

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `beta h_ij`, `[G, K]`."""
        return self.beta * batch.log_ratio(self.logp_reduction)

    def expected_initial_loss(self) -> float | None:
        """Return ln 2, since both log-ratios are 0; None if the loss has weights or another term."""
        return None if self.wpo or self.nll_weight else math.log(2)
