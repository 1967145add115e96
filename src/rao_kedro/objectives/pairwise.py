"""What the pairwise objectives share: a loss per group from its chosen and its rejected response."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput, require_choice, require_finite
from rao_kedro.objectives.metrics import pair_metrics


@dataclass(frozen=True, kw_only=True)
class PairwiseObjective(Objective):
    """Mean over groups of a loss of columns 0 (chosen) and 1 (rejected). It does not read the other columns.

    Attributes:
        nll_weight: Weight of `-avg log pi(y_w)`, which is added to the loss: the chosen response is learned as in SFT
            (Pang et al. 2024, arXiv 2404.19733, eq. 2).
        wpo: Whether the loss of a pair is weighted by `exp(avg log pi(y_w) + avg log pi(y_l))`, without gradient:
            pairs that the policy could write itself count more (Zhou et al. 2024, arXiv 2406.11827, without their
            alignment of the weights).
    """

    nll_weight: float = 0.0
    wpo: bool = False

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_finite("nll_weight", self.nll_weight, at_least=0)
        require_choice("wpo", self.wpo, (True, False))

    @abstractmethod
    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the objective's own loss of each group, `[G]`."""

    def losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; `wpo` and `nll_weight` need `lengths`."""
        losses = self.pair_losses(batch)
        if self.wpo:
            losses = losses * batch.mean_token_logps()[:, :2].sum(1).exp().detach()
        if self.nll_weight:
            losses = losses - self.nll_weight * batch.mean_token_logps()[:, 0]
        return losses

    @abstractmethod
    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return the rewards that the policy implies under this objective, `[G, K]`."""

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the mean loss and the metrics of a batch."""
        return ObjectiveOutput(self.losses(batch).mean(), pair_metrics(batch, self.implicit_rewards(batch)))


@dataclass(frozen=True, kw_only=True)
class LogSigmoidObjective(PairwiseObjective):
    """`-log sigmoid` of a logit of each pair: the negative log-likelihood of its label.

    Attributes:
        label_smoothing: Probability that a preference label is flipped, in [0, 0.5) (cDPO, Mitchell 2023).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")

    @abstractmethod
    def logits(self, batch: LogProbBatch) -> Tensor:
        """Return the log-odds that the chosen response is the better one, `[G]`."""

    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the expected loss of each group's label, `[G]`."""
        logits = self.logits(batch)
        return -(1 - self.label_smoothing) * F.logsigmoid(logits) - self.label_smoothing * F.logsigmoid(-logits)


class ReferencePairwiseObjective(PairwiseObjective):
    """A pairwise objective whose implicit reward is `beta h`."""

    beta: float

    @property
    def temperature(self) -> float | None:
        """Return beta, implicit reward per nat."""
        return self.beta

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `beta h_ij`, `[G, K]`; needs `reference`."""
        return self.beta * batch.log_ratio()


@dataclass(frozen=True)
class AllPairs(Objective):
    """A pairwise objective on every pair of differently rated responses of a group.

    The loss is the mean over a group's pairs, then over groups. With two responses it is the objective's own loss. The
    metrics are those of columns 0 and 1, with or without `AllPairs`.

    Attributes:
        objective: The pairwise objective.
    """

    objective: PairwiseObjective

    @property
    def temperature(self) -> float | None:
        """Return that of the objective."""
        return self.objective.temperature

    def expected_initial_loss(self) -> float | None:
        """Return that of the objective: every pair has it."""
        return self.objective.expected_initial_loss()

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the mean loss and the metrics of a batch; needs `ratings`.

        Raises:
            ValueError: All responses of a group have the same rating.
        """
        (ratings,) = batch.require("ratings")
        better = (ratings[:, :, None] > ratings[:, None, :]) & batch.mask[:, :, None] & batch.mask[:, None, :]
        group, chosen, rejected = better.nonzero(as_tuple=True)
        n_pairs = better.sum((1, 2))
        if not bool((n_pairs > 0).all()):
            raise ValueError("all responses of a group have the same rating: it has no pairs")
        losses = self.objective.losses(_select_pairs(batch, group, chosen, rejected))
        per_group = losses.new_zeros(len(n_pairs)).index_add(0, group, losses) / n_pairs
        return ObjectiveOutput(per_group.mean(), pair_metrics(batch, self.objective.implicit_rewards(batch)))


def _select_pairs(batch: LogProbBatch, group: Tensor, chosen: Tensor, rejected: Tensor) -> LogProbBatch:
    """Return P pairs as a batch of P groups of two; `group`, `chosen` and `rejected` are their indices, `[P]`."""
    columns: dict[str, Any] = {}
    for name in ("policy", "lengths", "mask", "reference", "sampling", "rewards", "ratings"):
        values = getattr(batch, name)
        columns[name] = None if values is None else torch.stack([values[group, chosen], values[group, rejected]], 1)
    for name in ("policy_prompt", "reference_prompt", "values", "reference_rewards"):
        values = getattr(batch, name)
        columns[name] = None if values is None else values[group]
    return replace(batch, **columns)
