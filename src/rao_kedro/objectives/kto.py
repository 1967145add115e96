"""Kahneman-Tversky Optimization (Ethayarajh et al. 2024, arXiv 2402.01306)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_positive
from rao_kedro.objectives.pairwise import ReferencePairwiseObjective


@dataclass(frozen=True)
class KTO(ReferencePairwiseObjective):
    """`w_D (1 - sigmoid(beta (h_w - z)))` for the chosen, `w_U (1 - sigmoid(beta (z - h_l)))` for the rejected.

    `z = max(0, mean log-ratio of mismatched pairs)` estimates the KL divergence from the reference. No gradient flows
    through it. A group's loss is the mean of its two.

    Attributes:
        beta: Strength of the KL constraint, implicit reward per nat.
        desirable_weight: w_D.
        undesirable_weight: w_U.
    """

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            require_positive(name, getattr(self, name))

    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; needs `reference` and the mismatched log-probs."""
        policy, reference = batch.require("mismatched_policy", "mismatched_reference")
        z = (policy - reference).mean().clamp(min=0).detach()
        h = batch.log_ratio()
        desirable = self.desirable_weight * (1 - torch.sigmoid(self.beta * (h[:, 0] - z)))
        undesirable = self.undesirable_weight * (1 - torch.sigmoid(self.beta * (z - h[:, 1])))
        return (desirable + undesirable) / 2
