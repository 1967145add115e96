"""What every objective reads (`LogProbBatch`), returns (`ObjectiveOutput`) and declares (`Objective`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

LogpReduction = Literal["sum", "mean"]
PromptGradient = Literal["none", "detached", "attached"]  # `prompt_term` in the parameters of RAO


@dataclass(frozen=True, kw_only=True)
class LogProbBatch:
    """Log-probs and rewards of a batch of G prompt groups with up to K responses each.

    A log-prob is summed over the tokens of its sequence, in nats, in fp32 or fp64. Column 0 is the chosen response,
    column 1 the rejected one. Further columns hold the group's other responses in any order.

    Only `policy` is always needed. An objective raises `ValueError` if it reads a tensor that is missing.

    Attributes:
        policy: `[G, K]` log pi(y_ij | x_i).
        reference: `[G, K]` log pi_ref(y_ij | x_i).
        sampling: `[G, K]` log-prob of y_ij under the policy that sampled it (RLOO).
        policy_prompt: `[G]` log pi(x_i - t_0 | t_0): the prompt after its prefix t_0.
        reference_prompt: `[G]` log pi_ref(x_i - t_0 | t_0).
        rewards: `[G, K]` explicit rewards r_ij.
        ratings: `[G, K]` ratings from the data; their order defines the pairs of `AllPairs`.
        lengths: `[G, K]` response tokens, including the end-of-turn token.
        mask: `[G, K]` True where a response exists; True everywhere if not given.
        mismatched_policy: `[M]` log pi(y_j | x_i) of M pairs of a prompt and another prompt's response (KTO).
        mismatched_reference: `[M]` log pi_ref(y_j | x_i) of the same pairs.
        values: `[G]` V(x_i) of a value network, in reward units (DRO).
        reference_rewards: `[G, N]` rewards of N responses that the reference wrote to each prompt; NaN where there are
            fewer (QRPO).
        progress: Completed share of the training steps, in [0, 1] (schedule of DPO-Shift).
    """

    policy: Tensor
    reference: Tensor | None = None
    sampling: Tensor | None = None
    policy_prompt: Tensor | None = None
    reference_prompt: Tensor | None = None
    rewards: Tensor | None = None
    ratings: Tensor | None = None
    lengths: Tensor | None = None
    mask: Tensor = None  # type: ignore[assignment]  # `__post_init__` sets it
    mismatched_policy: Tensor | None = None
    mismatched_reference: Tensor | None = None
    values: Tensor | None = None
    reference_rewards: Tensor | None = None
    progress: float = 0.0

    def __post_init__(self) -> None:
        """Check the shapes once, so that no objective broadcasts by accident.

        Raises:
            ValueError: The shape of a tensor does not fit `policy`, or a group has fewer than two responses, or no
                reference reward although `reference_rewards` is given.
        """
        if self.policy.dim() != 2:
            raise ValueError(f"policy must be [groups, responses], got {list(self.policy.shape)}")
        if self.mask is None:
            object.__setattr__(self, "mask", torch.ones_like(self.policy, dtype=torch.bool))
        for name in ("lengths", "mask", "reference", "sampling", "rewards", "ratings"):
            self._check_shape(name, tuple(self.policy.shape))
        for name in ("policy_prompt", "reference_prompt", "values"):
            self._check_shape(name, (self.policy.shape[0],))
        if self.mismatched_policy is not None:
            self._check_shape("mismatched_reference", tuple(self.mismatched_policy.shape))
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be boolean, got {self.mask.dtype}")
        if self.policy.shape[1] < 2 or not bool(self.mask[:, :2].all()):
            raise ValueError("every group needs a chosen (column 0) and a rejected (column 1) response")
        if self.reference_rewards is not None:
            self._check_shape("reference_rewards", (len(self.policy), self.reference_rewards.shape[-1]))
            if bool(self.reference_rewards.isnan().all(1).any()):
                raise ValueError("every group needs a reference reward: leave out the groups that have none")

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

    def log_ratio(self, reduction: LogpReduction = "sum") -> Tensor:
        """Return `h_ij = log pi(y_ij|x_i) - log pi_ref(y_ij|x_i)`, `[G, K]` in nats, 0 where masked.

        Args:
            reduction: Over the tokens of a response: their sum, or their mean, in nats per token.
        """
        (reference,) = self.require("reference")
        h = (self.policy - reference).masked_fill(~self.mask, 0.0)
        return h if reduction == "sum" else h / self.require("lengths")[0].clamp(min=1)

    def mean_token_logps(self) -> Tensor:
        """Return `log pi(y_ij|x_i) / |y_ij|`, `[G, K]` in nats per token, 0 where masked."""
        (lengths,) = self.require("lengths")
        return (self.policy / lengths.clamp(min=1)).masked_fill(~self.mask, 0.0)

    def prompt_log_ratio(self) -> Tensor:
        """Return `D_i = log pi(x_i - t_0|t_0) - log pi_ref(x_i - t_0|t_0)`, `[G]` in nats."""
        policy_prompt, reference_prompt = self.require("policy_prompt", "reference_prompt")
        return policy_prompt - reference_prompt


@dataclass(frozen=True)
class ObjectiveOutput:
    """What an objective returns.

    Attributes:
        loss: Scalar mean over the batch's groups, or over its responses; see `Objective.loss_is_mean_over`.
        metrics: Detached scalars, means over the batch's groups.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """Turns a batch of prompt groups into a loss. Subclasses override what differs from the defaults here."""

    @abstractmethod
    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the loss and the metrics of a batch.

        Raises:
            ValueError: The batch lacks a tensor that the objective reads.
        """

    @property
    def temperature(self) -> float | None:
        """Strength of the KL constraint: (implicit) reward units per nat; None where the objective has none."""
        return None

    @property
    def prompt_gradient(self) -> PromptGradient:
        """Whether the loss reads prompt log-probs, and whether their gradient flows."""
        return "none"

    @property
    def loss_is_mean_over(self) -> Literal["groups", "responses"]:
        """What the losses of several batches are weighted by when they are combined."""
        return "groups"

    def solve_log_z0(
        self, rewards: Sequence[Sequence[float]], reference_rewards: Sequence[Sequence[float]] | None = None
    ) -> float | None:
        """Return log Z_0 in nats, if the objective solves it from such rewards; None otherwise.

        Args:
            rewards: Of the training responses, `[groups][responses]`.
            reference_rewards: Of responses sampled from the reference, `[groups][samples]`.
        """
        return None

    def calibrate(
        self, rewards: Sequence[Sequence[float]], reference_rewards: Sequence[Sequence[float]] | None = None
    ) -> Self:
        """Return the objective with log Z_0 solved, if it solves it; the arguments are those of `solve_log_z0`."""
        return self

    def calibrate_to_samples(self, batch: LogProbBatch) -> Self:
        """Return the objective with what it takes from all sampled responses; they need `sampling`."""
        return self

    def remark_on_targets(self, chosen_rewards: Sequence[float]) -> str | None:
        """Return a sentence if the targets lower the likelihood of the average chosen response; None otherwise.

        Args:
            chosen_rewards: Reward of the chosen response of each training group.
        """
        return None

    def expected_initial_loss(self) -> float | None:
        """Return the loss at policy = reference; None where it depends on the batch."""
        return None


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
