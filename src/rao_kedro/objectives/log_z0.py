"""Solves RAO's normaliser log Z_0 from rewards. Plain numbers; knows no model."""

from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean
from typing import Literal

Reduction = Literal["prompt_mean", "flat"]


def solve_log_z0(
    rewards: Iterable[Sequence[float]], beta: float, margin: float = 0.0, reduction: Reduction = "prompt_mean"
) -> float:
    """Solve `mean target log-ratio = margin` for log Z_0 before the first update, where every D_i is 0.

    Args:
        rewards: Explicit rewards, `[groups][responses]`.
        beta: Strength of the KL constraint, reward units per nat.
        margin: Mean target log-ratio to reach, in nats; a positive one raises the likelihood of the average response.
        reduction: Mean over a group's responses, then over groups; or over all responses (`flat`).

    Returns:
        `mean r / beta - margin`, in nats.
    """
    mean = fmean(chain.from_iterable(rewards)) if reduction == "flat" else fmean(fmean(group) for group in rewards)
    return mean / beta - margin


def largest_raising_log_z0(chosen_rewards: Iterable[float], beta: float) -> float:
    """Return the largest log Z_0, in nats, whose mean target log-ratio of the chosen responses is at least 0.

    Args:
        chosen_rewards: Reward of each group's chosen response.
        beta: Strength of the KL constraint, reward units per nat.
    """
    return fmean(chosen_rewards) / beta
