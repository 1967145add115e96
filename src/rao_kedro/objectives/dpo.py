"""Direct Preference Optimization (Rafailov et al. 2023, eq. 7) with optional label smoothing (cDPO)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F

from rao_kedro.objectives.base import GroupLogps, ObjectiveOutput, pair_metrics, require_positive


@dataclass(frozen=True)
class DPO:
    """`L = -log sigmoid(beta (h_w - h_l))`, mean over groups; the pair is columns 0 and 1.

    Attributes:
        beta: Strength of the KL constraint, implicit reward per nat.
        label_smoothing: Probability in [0, 0.5) that a preference label is flipped.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    needs_rewards: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = True
    pairwise: ClassVar[bool] = True
    prompt_gradient: ClassVar[Literal["none"]] = "none"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_positive("beta", self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing!r}")

    def __call__(self, batch: GroupLogps) -> ObjectiveOutput:
        """Return the loss of a batch; needs `reference`."""
        h = batch.log_ratio()
        logits = self.beta * (h[:, 0] - h[:, 1])
        losses = -(1 - self.label_smoothing) * F.logsigmoid(logits) - self.label_smoothing * F.logsigmoid(-logits)
        weight = torch.tensor(float(len(losses)), device=losses.device)
        return ObjectiveOutput(losses.mean(), weight, pair_metrics(batch, self.beta))
