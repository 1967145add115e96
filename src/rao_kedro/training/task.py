"""What the loop asks of a task: its model, its groups, its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

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


class Task(ABC):
    """One kind of training: supervised fine-tuning, a reward model, alignment."""

    train_groups: list[TokenizedGroup]
    eval_groups: list[TokenizedGroup]
    selection_metric: str
    greater_is_better: bool
    passes_per_step: int = 1  # optimizer steps on the same groups

    @property
    def responses_per_prompt(self) -> float | None:
        """Mean responses to a training prompt that are learned from; None where the task samples its own."""
        return fmean(len(group.response_ids) for group in self.train_groups)

    @abstractmethod
    def load(self) -> nn.Module:
        """Return the module to train, in fp32."""

    @abstractmethod
    def weigh(self, groups: Sequence[TokenizedGroup]) -> float:
        """Return how many units the loss of these groups is a mean over (groups, responses or tokens)."""

    @abstractmethod
    def loss(self, module: nn.Module, groups: Sequence[TokenizedGroup], device: torch.device) -> LossOutput:
        """Return the loss of one pack of groups."""

    @abstractmethod
    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the trained module, whose gathered state dict is `weights`, as a plain checkpoint."""

    def prepare(self, module: nn.Module) -> None:  # noqa: B027
        """See the module on its device with its first weights, before any checkpoint is loaded."""

    def before_packs(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Compute what spans the packs of a step or of an evaluation; all processes call this with all its groups.

        Args:
            module: The module.
            groups: All groups of the step or evaluation.
            progress: Share of the training steps that are done, in [0, 1].

        Returns:
            The groups that the packs are made of: the same ones, except for rollouts.
        """
        return groups

    def summarise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Turn metrics averaged over all groups of a step or evaluation into those that are logged."""
        return dict(metrics)

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Raise `TrainingError` if the metrics of the first step, before any update, cannot be right."""

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Return a sentence on an evaluation that its reader must not miss, if there is one."""
        return None
