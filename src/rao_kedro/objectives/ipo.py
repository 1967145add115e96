"""Identity Preference Optimization (Azar et al. 2023, eq. 17)."""

from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from rao_kedro.objectives.base import LogpReduction, LogProbBatch, require_choice, require_positive
from rao_kedro.objectives.pairwise import PairwiseObjective


@dataclass(frozen=True)
class IPO(PairwiseObjective):
    """`L = (h_w - h_l - 1/(2 tau))^2`.

    Attributes:
        tau: Strength of the KL constraint; the target gap of the log-ratios is `1/(2 tau)` nats.
        logp_reduction: `sum` over a response's tokens (paper), or their `mean` (several libraries).
    """

    tau: float = 0.1
    logp_reduction: LogpReduction = "sum"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_positive("tau", self.tau)
        require_choice("logp_reduction", self.logp_reduction, get_args(LogpReduction))

    @property
    def temperature(self) -> float | None:
        """Return tau; None for mean log-probs, where tau is per nat of a token, not of a response."""
        return self.tau if self.logp_reduction == "sum" else None

    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; needs `reference`."""
        h = batch.log_ratio(self.logp_reduction)
        return (h[:, 0] - h[:, 1] - 1 / (2 * self.tau)).square()

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `tau h_ij`, `[G, K]`."""
        return self.tau * batch.log_ratio(self.logp_reduction)
