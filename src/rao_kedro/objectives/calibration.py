"""RAO's one hyperparameter, solved from rewards. Plain numbers; knows no model."""

from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import fmean
from typing import Literal

Reduction = Literal["prompt_mean", "flat"]


def calibrated_log_z0(
    rewards: Iterable[Sequence[float]], beta: float, margin: float = 0.0, reduction: Reduction = "prompt_mean"
) -> float:
    """Solve `mean target log-ratio = margin` for log_z0 at step 0, where every D_i is 0.

    Args:
        rewards: Annotated rewards, `[groups][responses]`.
        beta: Strength of the KL constraint, reward units per nat.
        margin: Wanted mean target log-ratio, in nats; above 0 raises the likelihood of the average response.
        reduction: The mean of the loss: over a group's responses, then over groups; or over all responses (`flat`).

    Returns:
        log_z0 in nats: `mean r / beta - margin`.
    """
    mean = fmean(chain.from_iterable(rewards)) if reduction == "flat" else fmean(fmean(group) for group in rewards)
    return mean / beta - margin


def raising_log_z0(chosen_rewards: Iterable[float], beta: float) -> float:
    """Return the largest log_z0, in nats, at which the mean target log-ratio of the chosen responses is not below 0.

    Args:
        chosen_rewards: Reward of each group's chosen response.
        beta: Strength of the KL constraint, reward units per nat.
    """
    return fmean(chosen_rewards) / beta
