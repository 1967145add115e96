"""The interface of a training task: its model, its groups, its loss. The loop knows nothing else of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.training.parameter_groups import ParameterGroup

Outputs = tuple[Tensor, ...]  # see `Task.compute`


@dataclass(frozen=True)
class LossOutput:
    """The loss of groups.

    Attributes:
        loss: Scalar mean over the groups, responses or tokens (see `Task.count_units`).
        metrics: Detached scalars, means over the groups.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Task(ABC):
    """One kind of training: supervised fine-tuning, a reward model, alignment.

    Attributes:
        train_groups: Groups that are trained on.
        eval_groups: Groups of the evaluations.
        selection_metric: Metric of an evaluation by which the best weights are chosen.
        greater_is_better: Whether a higher selection metric is better.
        passes_per_step: Optimizer steps on the same groups; PPO's epochs over a rollout.
        parameter_groups: Submodules that are trained with settings of their own.
    """

    train_groups: Sequence[TokenizedGroup]
    eval_groups: Sequence[TokenizedGroup]
    selection_metric: str
    greater_is_better: bool
    passes_per_step: int = 1
    parameter_groups: Sequence[ParameterGroup] = ()

    @property
    def responses_per_prompt(self) -> float | None:
        """Mean number of responses per training prompt; None where the task samples its own."""
        return fmean(len(group.response_ids) for group in self.train_groups)

    @abstractmethod
    def load(self) -> nn.Module:
        """Return the module to train, in fp32."""

    @abstractmethod
    def count_units(self, groups: Sequence[TokenizedGroup]) -> float:
        """Return the number of groups, responses or tokens that the loss of these groups is a mean over."""

    @abstractmethod
    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return what the module computes on a pack of G groups, some of which may be pieces of a longer group.

        The output of a response must depend on its prompt and itself only, and not on the group's other responses.

        Returns:
            Tensors `[G]` with a value per prompt, `[G, K]` with a value per response (0 where a group has fewer), or
            `[G, K, T]` with a value per response token (0 after the last one).
        """

    @abstractmethod
    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the loss of whole groups from what `compute` returned for them."""

    @abstractmethod
    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the trained module as a plain checkpoint; `weights` is its gathered state dict."""

    def prepare(self, module: nn.Module) -> None:  # noqa: B027
        """Compute what depends on the initial weights: the module is on its device, no checkpoint is loaded yet."""

    def prepare_groups(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Compute what depends on all groups of a step or an evaluation, before they are cut into packs.

        Every process calls this with all groups.

        Args:
            module: The module that is trained.
            groups: All groups of the step or evaluation.
            progress: Completed share of the training steps, in [0, 1].

        Returns:
            The groups to pack: the same ones, or those of a rollout.
        """
        return groups

    def summarise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics to log, from those averaged over all groups of a step or evaluation."""
        return dict(metrics)

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:  # noqa: B027
        """Raise `TrainingError` if the metrics of the first step, before any update, are impossible."""

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Return a warning about an evaluation, or None."""
        return None
