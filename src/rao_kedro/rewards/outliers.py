"""Rewards far from all others: squared errors, means and `log_z0: auto` follow them. Plain numbers; knows no model."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

OUTLIER = 20.0  # robust standard deviations from the median; of normal rewards none of a million lies beyond 5
NAMED = 3


def robust_moments(rewards: Iterable[float]) -> tuple[float, float]:
    """Return the median and the robust standard deviation of rewards: neither follows a few outliers.

    The deviation is the larger of 1.4826 times the median absolute deviation and the interquartile range over 1.349,
    both of which are the standard deviation of normal values; where most rewards are the same number, the first of the
    distinct ones; 0 where all are.
    """
    values = np.asarray(list(rewards), dtype=float)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = max(_scaled_deviation(values), (high - low) / 1.349)
    return float(median), float(spread or _scaled_deviation(np.unique(values)))


def _scaled_deviation(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def outlier_remark(
    rewards: Mapping[str, Sequence[float]],
    beta: float | None,
    solve: Callable[[list[Sequence[float]]], float] | None = None,
) -> str | None:
    """Return a sentence if some rewards lie implausibly far from the others: which, what follows, and what would help.

    Args:
        rewards: The training rewards of each group by its id, `[responses]`.
        beta: Reward units per nat; None where the method has none.
        solve: What `log_z0: auto` solves for from rewards `[groups][responses]`, in nats; None where it is not used.
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
        f"the median ({median:.3g}), in {len(extreme)} of {len(rewards)} groups, and carry the targets: {named}."
    ]
    if beta is not None:
        nats = distances[extreme[-1]] / beta
        sentences.append(f"With beta {beta:g} the furthest is {nats:.3g} nats from the median.")
    if solve is not None and others:
        sentences.append(
            f"log_z0: auto solves to {solve(list(rewards.values())):.6g} nats, and to {solve(others):.6g} without "
            "these groups."
        )
    sentences.append("Correct the data, or set reward_modeling.clip (5 keeps rewards within 5 of these deviations).")
    return " ".join(sentences)


def _furthest(rewards: Sequence[float], median: float) -> float:
    return max(rewards, key=lambda reward: abs(reward - median))
