"""REBEL (Gao et al. 2024, arXiv 2404.16767): relative rewards regressed on relative log-probabilities."""

from dataclasses import dataclass

from rao_kedro.objectives.base import require_positive
from rao_kedro.objectives.rpo_distill import PairedRegression


@dataclass(frozen=True)
class REBEL(PairedRegression):
    """`L = ((r_i - r_j) - (1/eta) (h_i - h_j))^2`, which is reward distillation with `beta = 1 / eta`.

    In the paper, pairs are sampled from the policy of the last round, which is also the reference of h.

    Attributes:
        eta: Step size of a round, nats per reward unit.
    """

    eta: float = 10.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("eta", self.eta)

    @property
    def temperature(self) -> float:
        """Return 1 / eta."""
        return 1 / self.eta
