"""What every objective reads (`LogProbBatch`) and returns (`ObjectiveOutput`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogProbBatch:
    """Log-probabilities and rewards of a batch of G prompt groups with up to K responses each.

    All log-probs are sums over tokens, in nats, fp32 (or fp64). Column 0 is the chosen response and column 1
    the rejected one; further columns hold the other responses of the group in any order.

    Attributes:
        policy: `[G, K]` log pi(y_ij | x_i).
        reference: `[G, K]` log pi_ref(y_ij | x_i).
        policy_prompt: `[G]` log pi(x_i - t_0 | t_0).
        reference_prompt: `[G]` log pi_ref(x_i - t_0 | t_0).
        rewards: `[G, K]` explicit rewards r_ij.
        ratings: `[G, K]` what the data say of the responses: the order of a group's pairs (`AllPairs`).
        lengths: `[G, K]` response tokens, the end-of-turn token included.
        mask: `[G, K]` True where a response exists; groups may have different K.
        mismatched_policy: `[M]` log pi(y_j | x_i) of M mismatched pairs, a response of another group each (KTO).
        mismatched_reference: `[M]` log pi_ref(y_j | x_i) of the same pairs.
        values: `[G]` V(x_i) of a value network, in reward units (DRO).
        progress: Share of the training steps that are done, in [0, 1] (DPO-Shift's schedule).
    """

    policy: Tensor
    lengths: Tensor
    mask: Tensor
    reference: Tensor | None = None
    policy_prompt: Tensor | None = None
    reference_prompt: Tensor | None = None
    rewards: Tensor | None = None
    ratings: Tensor | None = None
    mismatched_policy: Tensor | None = None
    mismatched_reference: Tensor | None = None
    values: Tensor | None = None
    progress: float = 0.0

    def __post_init__(self) -> None:
        """Check the shapes once, so that no objective broadcasts by accident.

        Raises:
            ValueError: A tensor's shape does not fit `policy`, or a group has fewer than two responses.
        """
        if self.policy.dim() != 2:
            raise ValueError(f"policy must be [groups, responses], got {tuple(self.policy.shape)}")
        for name in ("lengths", "mask", "reference", "rewards", "ratings"):
            self._check_shape(name, tuple(self.policy.shape))
        for name in ("policy_prompt", "reference_prompt", "values"):
            self._check_shape(name, (self.policy.shape[0],))
        if self.mismatched_policy is not None:
            self._check_shape("mismatched_reference", tuple(self.mismatched_policy.shape))
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be boolean, got {self.mask.dtype}")
        if self.policy.shape[1] < 2 or not bool(self.mask[:, :2].all()):
            raise ValueError("every group needs a chosen (column 0) and a rejected (column 1) response")

    def _check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        value = getattr(self, name)
        if value is not None and tuple(value.shape) != expected:
            raise ValueError(f"{name} must have shape {list(expected)}, got {list(value.shape)}")

    def require(self, *names: str) -> tuple[Tensor, ...]:
        """Return the named optional tensors.

        Raises:
            ValueError: One of them is missing from this batch.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(f"this objective needs {', '.join(missing)} in LogProbBatch, but the batch has none")
        return tuple(getattr(self, name) for name in names)

    def log_ratio(self) -> Tensor:
        """Return `h_ij = log pi(y_ij|x_i) - log pi_ref(y_ij|x_i)`, `[G, K]` in nats, 0 where masked."""
        (reference,) = self.require("reference")
        return (self.policy - reference).masked_fill(~self.mask, 0.0)

    def mean_token_logps(self) -> Tensor:
        """Return `log pi(y_ij|x_i) / |y_ij|`, `[G, K]` in nats per token, 0 where masked."""
        return (self.policy / self.lengths.clamp(min=1)).masked_fill(~self.mask, 0.0)

    def prompt_log_ratio(self) -> Tensor:
        """Return `D_i = log pi(x_i - t_0|t_0) - log pi_ref(x_i - t_0|t_0)`, `[G]` in nats."""
        policy_prompt, reference_prompt = self.require("policy_prompt", "reference_prompt")
        return policy_prompt - reference_prompt


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective returns.

    Attributes:
        loss: Scalar, a mean over `weight` units.
        weight: How many units (groups, or responses for a flat reduction) the mean runs over. Losses of
            several batches combine as `sum(weight * loss) / sum(weight)`.
        metrics: Detached scalars, means over the batch's groups.
    """

    loss: Tensor
    weight: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A callable that turns a batch of prompt groups into a loss.

    Attributes:
        pairwise: Whether only the pair of columns 0 (chosen) and 1 (rejected) is read.
    """

    pairwise: ClassVar[bool]

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads log-probs of the reference."""
        ...

    @property
    def prompt_gradient(self) -> Literal["none", "detached", "attached"]:
        """Whether prompt log-probs are needed, and whether gradients flow through them."""
        ...

    @property
    def temperature(self) -> float | None:
        """Strength of the KL constraint, (implicit) reward units per nat; None where the objective has none."""
        ...

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss and its metrics."""
        ...


def require_positive(name: str, value: float) -> None:
    """Raise `ValueError` unless `value` is a finite number above 0."""
    if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def require_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def require_finite(name: str, value: float, at_least: float = -float("inf")) -> None:
    """Raise `ValueError` unless `value` is a finite number of at least `at_least`."""
    if not (isinstance(value, (int, float)) and abs(value) < float("inf") and value >= at_least):
        bound = "" if at_least == -float("inf") else f" of at least {at_least:g}"
        raise ValueError(f"{name} must be a finite number{bound}, got {value!r}")
