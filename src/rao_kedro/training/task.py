"""What the loop asks of a task: its model, its groups, its loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rao_kedro.models.packing import TokenizedGroup


@dataclass(frozen=True)
class LossOutput:
    """The loss of a pack.

    Attributes:
        loss: Scalar mean over the pack's units (see `Task.weigh`).
        metrics: Detached scalars, means over the pack's groups.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """One kind of training: supervised fine-tuning, a reward model, alignment."""

    train_groups: list[TokenizedGroup]
    eval_groups: list[TokenizedGroup]
    selection_metric: str
    greater_is_better: bool

    def load(self) -> nn.Module:
        """Return the module to train, in fp32."""
        ...

    def weigh(self, groups: Sequence[TokenizedGroup]) -> float:
        """Return how many units the loss of these groups is a mean over (groups, responses or tokens)."""
        ...

    def loss(self, module: nn.Module, groups: Sequence[TokenizedGroup], device: torch.device) -> LossOutput:
        """Return the loss of one pack of groups."""
        ...

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:
        """Raise `TrainingError` if the metrics of the first step, before any update, cannot be right."""
        ...

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the trained module, whose gathered state dict is `weights`, as a plain checkpoint."""
        ...
