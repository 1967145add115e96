"""What the pairwise objectives share: a loss per group from its chosen and rejected response."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rao_kedro.objectives.base import GroupLogps, ObjectiveOutput
from rao_kedro.objectives.metrics import pair_metrics


class PairwiseObjective(ABC):
    """Mean over groups of a loss of the pair in columns 0 (chosen) and 1 (rejected); other columns are not read."""

    pairwise: ClassVar[bool] = True
    prompt_gradient: ClassVar[Literal["none"]] = "none"

    @abstractmethod
    def losses(self, batch: GroupLogps) -> Tensor:
        """Return the loss of each group, `[G]`."""

    @abstractmethod
    def implicit_rewards(self, batch: GroupLogps) -> Tensor:
        """Return the rewards that the policy implies under this objective, `[G, K]`."""

    def __call__(self, batch: GroupLogps) -> ObjectiveOutput:
        """Return the mean loss and the metrics of a batch."""
        losses = self.losses(batch)
        weight = torch.tensor(float(len(losses)), device=losses.device)
        return ObjectiveOutput(losses.mean(), weight, pair_metrics(batch, self.implicit_rewards(batch)))


class ReferencePairwiseObjective(PairwiseObjective):
    """A pairwise objective whose implicit reward is `beta h`."""

    beta: float

    @property
    def temperature(self) -> float:
        """Implicit reward per nat."""
        return self.beta

    def implicit_rewards(self, batch: GroupLogps) -> Tensor:
        """Return `beta h_ij`, `[G, K]`; needs `reference`."""
        return self.beta * batch.log_ratio()
