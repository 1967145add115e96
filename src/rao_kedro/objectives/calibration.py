"""RAO's one hyperparameter, solved from rewards. Plain numbers; knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any


def calibrated_log_z0(rewards: Iterable[Sequence[float]], beta: float, margin: float = 0.0) -> float:
    """Solve `mean target log-ratio = margin` for log_z0 at step 0, where every D_i is 0.

    Args:
        rewards: Annotated rewards, `[groups][responses]`.
        beta: Strength of the KL constraint, reward units per nat.
        margin: Wanted mean target log-ratio, in nats; above 0 raises the likelihood of the average response.

    Returns:
        log_z0 in nats: `mean_i mean_j r_ij / beta - margin`.
    """
    return fmean(fmean(group) for group in rewards) / beta - margin


def raising_log_z0(chosen_rewards: Iterable[float], beta: float) -> float:
    """Return the largest log_z0, in nats, at which the mean target log-ratio of the chosen responses is not below 0.

    Args:
        chosen_rewards: Reward of each group's chosen response.
        beta: Strength of the KL constraint, reward units per nat.
    """
    return fmean(chosen_rewards) / beta


def solved(parameters: Mapping[str, Any], rewards: Iterable[Sequence[float]]) -> dict[str, Any]:
    """Return an objective's parameters with `log_z0: auto` (and `margin` beside it) replaced by a number of nats."""
    result = dict(parameters)
    if result.get("log_z0") == "auto":
        result["log_z0"] = calibrated_log_z0(rewards, float(result.get("beta", 0.1)), float(result.pop("margin", 0.0)))
    return result
