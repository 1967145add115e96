"""Turns raw rewards into those to train with: steps that are fitted once, recorded, and applied to new rewards too.

Plain numbers; knows no table. A step is a dictionary that JSON can hold. In their order:

- `length_penalty` (`per_token`): this much is subtracted per token of the response, in units of the raw reward;
- `clip` (`low`, `high`): what lies beyond is set to the bound;
- `standardise` (`mean`, `std`): mean 0 and standard deviation 1 over the training rewards;
- `quantile` (`rewards`, `quantiles`): the share of training rewards below, a tie counting one half;
- `quantile_per_prompt`: the same share among the rewards of the prompt's own responses.

The penalty comes first, so that everything after it sees the reward that is meant. Outliers are clipped before their
mean and deviation are taken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rao_kedro.config.reward_modeling import Normalisation
from rao_kedro.errors import DataError
from rao_kedro.rewards.outliers import robust_moments

Transform = Mapping[str, Any]
Numbers = NDArray[np.float64]
KNOTS = 101  # shares at which the distribution of the training rewards is recorded: 0, 0.01, ..., 1


def fit_transforms(
    rewards: Numbers,
    lengths: NDArray[Any],
    normalisation: Normalisation = "none",
    clip: float | None = None,
    length_penalty: float = 0.0,
) -> list[dict[str, Any]]:
    """Return the steps that `transform` and `apply_transforms` apply.

    Args:
        rewards: Raw rewards of all training responses.
        lengths: Their tokens.
        normalisation: The last step, if any.
        clip: Largest distance from the median in robust standard deviations; None does not clip.
        length_penalty: Reward units per token.

    Raises:
        DataError: All rewards are equal, so that they have neither a scale nor quantiles.
    """
    steps: list[dict[str, Any]] = []
    if length_penalty:
        steps.append({"name": "length_penalty", "per_token": length_penalty})
    if clip is not None:
        median, spread = robust_moments(transform(steps, rewards, lengths, []))
        steps.append({"name": "clip", "low": median - clip * spread, "high": median + clip * spread})
    rewards = transform(steps, rewards, lengths, [])
    if normalisation in ("standardise", "quantile") and np.ptp(rewards) == 0:
        before = "".join(f" after {step['name']}" for step in steps[-1:])
        raise DataError(
            f"all {len(rewards)} training rewards are {rewards[0]:g}{before}: reward_modeling.normalisation "
            f"{normalisation} needs rewards that differ"
        )
    if normalisation == "standardise":
        steps.append({"name": "standardise", "mean": float(rewards.mean()), "std": float(rewards.std())})
    elif normalisation == "quantile":
        steps.append({"name": "quantile", **_knots(rewards)})
    elif normalisation == "quantile_per_prompt":
        steps.append({"name": "quantile_per_prompt"})
    return steps


def _knots(rewards: Numbers) -> dict[str, list[float]]:
    """Return rewards and their exact quantiles: all that differ, or those about each of `KNOTS` shares.

    With the last reward below each share there is a knot on both sides of every jump, so that the interpolated quantile
    of a reward between two knots is within 1 / (KNOTS - 1) of its own.
    """
    values, counts = np.unique(rewards, return_counts=True)
    quantiles = (np.cumsum(counts) - counts / 2) / len(rewards)
    if len(values) > 2 * KNOTS:
        at = quantiles.searchsorted(np.linspace(0, 1, KNOTS)).clip(1, len(values) - 1)
        kept = np.unique([at - 1, at])
        values, quantiles = values[kept], quantiles[kept]
    return {"rewards": values.tolist(), "quantiles": quantiles.tolist()}


def apply_transforms(
    transforms: Sequence[Transform], rewards: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]]
) -> list[Numbers]:
    """Apply recorded steps to new rewards, such as those of samples of the policy.

    A quantile over the data set is exact for every training reward if at most `2 * KNOTS` of them differ, and within
    0.01 otherwise. Rewards between training rewards are interpolated; those beyond all of them get the quantile of the
    nearest one.

    Args:
        transforms: What `fit_transforms` returned, or the JSON of `reward_transforms` of an `AnnotatedGroupTable`.
        rewards: Raw rewards `[groups][responses]`; NaN, a response without a reward, stays NaN and counts nowhere.
        lengths: Tokens of the responses, `[groups][responses]`, with the end-of-turn token.

    Returns:
        The rewards to train with, `[groups][responses]`.
    """
    sizes = [len(of_group) for of_group in rewards]
    flat, tokens = (np.concatenate([np.empty(0), *rows]) for rows in (rewards, lengths))
    return np.split(transform(transforms, flat, tokens, sizes), np.cumsum(sizes)[:-1]) if sizes else []


def transform(
    transforms: Sequence[Transform], rewards: Numbers, lengths: NDArray[Any], sizes: Sequence[int]
) -> Numbers:
    """Apply recorded steps to the rewards of all groups, one group after the other.

    Args:
        transforms: The steps; see `apply_transforms`.
        rewards: Raw rewards.
        lengths: Tokens of each response.
        sizes: Number of responses of each group; only `quantile_per_prompt` reads it.

    Raises:
        DataError: A step is unknown.
    """
    for step in transforms:
        if step["name"] not in _STEPS:
            raise DataError(f"reward_transforms has the unknown transform {step['name']}: annotate the responses again")
        rewards = _STEPS[step["name"]](step, rewards, lengths, sizes)
    return rewards


def _quantile_per_prompt(rewards: Numbers, sizes: Sequence[int]) -> Numbers:
    quantiles = np.full(len(rewards), np.nan)
    start = 0
    for size in sizes:
        group = rewards[start : start + size]
        scored = ~np.isnan(group)
        values = group[scored]
        smaller_or_equal = (values < values[:, None]) + 0.5 * (values == values[:, None])
        quantiles[start : start + size][scored] = smaller_or_equal.sum(1) / max(len(values), 1)
        start += size
    return quantiles


_STEPS: dict[str, Callable[[Transform, Numbers, NDArray[Any], Sequence[int]], Numbers]] = {
    "length_penalty": lambda step, rewards, lengths, _: rewards - step["per_token"] * lengths,
    "clip": lambda step, rewards, *_: np.clip(rewards, step["low"], step["high"]),
    "standardise": lambda step, rewards, *_: (rewards - step["mean"]) / step["std"],
    "quantile": lambda step, rewards, *_: np.interp(rewards, step["rewards"], step["quantiles"]),
    "quantile_per_prompt": lambda _, rewards, __, sizes: _quantile_per_prompt(rewards, sizes),
}


def invert_transforms(transforms: Sequence[Transform], rewards: Numbers, lengths: NDArray[Any]) -> Numbers:
    """Return the raw rewards that recorded steps turn into these rewards.

    Args:
        transforms: The steps; see `apply_transforms`.
        rewards: Rewards to train with.
        lengths: Tokens of each response.

    Returns:
        NaN where there is no single raw reward: at a bound of `clip` or beyond, and outside the training quantiles.

    Raises:
        ValueError: A step is `quantile_per_prompt`, which has no inverse without the raw rewards of the prompt; the
            table keeps them as `raw_rewards`.
    """
    for step in reversed(transforms):
        match step["name"]:
            case "length_penalty":
                rewards = rewards + step["per_token"] * lengths
            case "clip":
                rounding = 1e-9 * (step["high"] - step["low"])
                inside = (rewards > step["low"] + rounding) & (rewards < step["high"] - rounding)
                rewards = np.where(inside, rewards, np.nan)
            case "standardise":
                rewards = rewards * step["std"] + step["mean"]
            case "quantile":
                rewards = np.interp(rewards, step["quantiles"], step["rewards"], left=np.nan, right=np.nan)
            case _:
                raise ValueError(f"{step['name']} has no inverse: the raw rewards are in the column raw_rewards")
    return rewards
