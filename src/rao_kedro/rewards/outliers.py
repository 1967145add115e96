"""Rewards far from all others dominate squared errors, means and `log_z0: auto`. Plain numbers; knows no model."""

from collections.abc import Iterable, Sequence
from itertools import chain
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
    values = np.fromiter(rewards, float)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = max(_scaled_deviation(values), (high - low) / 1.349)
    return float(median), float(spread or _scaled_deviation(np.unique(values)))


def _scaled_deviation(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def outlier_remark(names: Sequence[str], rewards: Sequence[Sequence[float]], objective: "Objective") -> str | None:
    """Return sentences on rewards that lie implausibly far from the others: which, their effect, a remedy; or None.

    Args:
        names: The id of each training group.
        rewards: Its rewards, `[groups][responses]`.
        objective: The objective to train with them, before it is calibrated.
    """
    flat = np.fromiter(chain.from_iterable(rewards), float)
    median, spread = robust_moments(flat)
    distances = np.fromiter((max(abs(reward - median) for reward in of_group) for of_group in rewards), float)
    order = np.argsort(distances, kind="stable").tolist()
    extreme = [i for i in order if distances[i] > OUTLIER * spread]
    if not spread or not extreme:
        return None
    n = int((np.abs(flat - median) > OUTLIER * spread).sum())
    named = ", ".join(f"{names[i]} ({_furthest(rewards[i], median):g})" for i in extreme[: -NAMED - 1 : -1])
    others = [rewards[i] for i in sorted(set(order) - set(extreme))]
    sentences = [
        f"{n} of {len(flat)} training rewards lie more than {OUTLIER:g} robust standard deviations ({spread:.3g}) from "
        f"the median ({median:.3g}), in {len(extreme)} of {len(rewards)} groups, and dominate the targets: {named}."
    ]
    if (beta := objective.temperature) is not None:
        nats = distances[extreme[-1]] / beta
        sentences.append(f"With beta {beta:g} the furthest is {nats:.3g} nats from the median.")
    log_z0 = objective.solve_log_z0(rewards)
    if log_z0 is not None and others:
        sentences.append(
            f"log_z0: auto solves to {log_z0:.6g} nats, and to {objective.solve_log_z0(others):.6g} without these "
            "groups."
        )
    sentences.append("Correct the data, or set reward_modeling.clip: 5 keeps rewards within 5 of these deviations.")
    return " ".join(sentences)


def _furthest(rewards: Sequence[float], median: float) -> float:
    return max(rewards, key=lambda reward: abs(reward - median))
