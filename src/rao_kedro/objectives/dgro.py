"""Decoupled Group Reward Optimization (Su et al. 2025, arXiv 2505.12951): Kimi k1.5 with two free weights."""

from dataclasses import dataclass

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput, require_positive
from rao_kedro.objectives.metrics import pair_metrics, target_metrics
from rao_kedro.objectives.pointwise import mean_per_group


@dataclass(frozen=True)
class DGRO(Objective):
    """`L = mean_j (-p (r_ij - mean_j r_ij) h_ij + q/2 h_ij^2)`.

    With p = 1 and q = tau its gradient is that of Kimi k1.5 divided by `2 tau`.

    Attributes:
        policy_weight: p, weight of the policy gradient.
        regularization_weight: q, weight of the pull towards the reference.
    """

    policy_weight: float = 1.0
    regularization_weight: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("policy_weight", self.policy_weight)
        require_positive("regularization_weight", self.regularization_weight)

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss and the metrics of a batch; needs `reference` and `rewards`."""
        (rewards,) = batch.require("rewards")
        h = batch.log_ratio()
        baseline = mean_per_group(rewards, batch.mask)
        terms = self.policy_weight * (baseline[:, None] - rewards) * h + self.regularization_weight / 2 * h.square()
        log_z = baseline / self.temperature
        targets = target_metrics(batch, rewards / self.temperature - log_z[:, None], log_z)
        metrics = pair_metrics(batch, self.temperature * h) | targets
        return ObjectiveOutput(mean_per_group(terms, batch.mask).mean(), metrics)

    @property
    def temperature(self) -> float:
        """Return `q / p`, reward units per nat: the gradient vanishes at `h = (r - mean r) p / q`."""
        return self.regularization_weight / self.policy_weight
