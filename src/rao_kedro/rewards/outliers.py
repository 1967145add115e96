"""Rewards far from all others dominate squared errors, means and `log_z0: auto`. Plain numbers; knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rao_kedro.objectives import Objective

OUTLIER = 20.0  # robust standard deviations from the median; one normal reward in a million lies beyond 5
NAMED = 3  # groups that a remark names


def robust_moments(rewards: Iterable[float]) -> tuple[float, float]:
    """Return the median and a robust standard deviation of rewards, which a few outliers do not move.

    The deviation is the larger of 1.4826 times the median absolute deviation and the interquartile range over 1.349:
    both equal the standard deviation of normal values. If both are 0 because most rewards are equal, it is 1.4826 times
    the median absolute deviation of the distinct rewards. It is 0 if all rewards are equal.
    """
    values = np.asarray(list(rewards), dtype=float)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = max(_scaled_deviation(values), (high - low) / 1.349)
    return float(median), float(spread or _scaled_deviation(np.unique(values)))


def _scaled_deviation(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def outlier_remark(rewards: Mapping[str, Sequence[float]], objective: "Objective") -> str | None:
    """Return sentences on rewards that lie implausibly far from the others: which, their effect, a remedy; or None.

    Args:
        rewards: Training rewards of each group by its id, `[responses]`.
        objective: The objective to train with them, before it is calibrated.
    """
    flat = np.concatenate([np.asarray(values, dtype=float) for values in rewards.values()])
    median, spread = robust_moments(flat)
    distances = {name: float(np.max(np.abs(np.asarray(values) - median))) for name, values in rewards.items()}
    extreme = sorted((name for name, far in distances.items() if far > OUTLIER * spread), key=distances.__getitem__)
    if not spread or not extreme:
        return None
    n = int((np.abs(flat - median) > OUTLIER * spread).sum())
    named = ", ".join(f"{name} ({_furthest(rewards[name], median):g})" for name in extreme[: -NAMED - 1 : -1])
    others = [values for name, values in rewards.items() if name not in set(extreme)]
    sentences = [
        f"{n} of {len(flat)} training rewards lie more than {OUTLIER:g} robust standard deviations ({spread:.3g}) from "
        f"the median ({median:.3g}), in {len(extreme)} of {len(rewards)} groups, and dominate the targets: {named}."
    ]
    if (beta := objective.temperature) is not None:
        nats = distances[extreme[-1]] / beta
        sentences.append(f"With beta {beta:g} the furthest is {nats:.3g} nats from the median.")
    log_z0 = objective.solve_log_z0(list(rewards.values()))
    if log_z0 is not None and others:
        sentences.append(
            f"log_z0: auto solves to {log_z0:.6g} nats, and to {objective.solve_log_z0(others):.6g} without these "
            "groups."
        )
    sentences.append("Correct the data, or set reward_modeling.clip: 5 keeps rewards within 5 of these deviations.")
    return " ".join(sentences)


def _furthest(rewards: Sequence[float], median: float) -> float:
    return max(rewards, key=lambda reward: abs(reward - median))
