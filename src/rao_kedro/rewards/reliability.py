"""Tables that show how far rewards can be trusted, and the targets they give RAO. Knows no model."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import pandas as pd

from rao_kedro.data.tokenize import response_order
from rao_kedro.objectives import make_objective
from rao_kedro.rewards.annotation import QUANTILES, recorded_transforms
from rao_kedro.rewards.outliers import OUTLIER, robust_moments
from rao_kedro.rewards.transforms import Transform, invert_transforms, transform

GRID_BETAS = (0.025, 0.05, 0.1, 0.5, 1.0)
GRID_LOG_Z0S = (-50.0, -20.0, -10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
SATURATED = 0.01
GROUP_METRICS = (
    "pair_accuracy",
    "length_only_accuracy",
    "tied_pairs",
    "chosen_minus_rejected",
    "length_correlation",
    "rating_length_correlation",
    "truncated",
    "chosen_target_is_up",
)
BOUNDS = {"chosen_minus_rejected": None, "length_correlation": (-1, 1), "rating_length_correlation": (-1, 1)}


def calibration_report(
    reward_annotated: pd.DataFrame, rao: Mapping[str, Any], seed: int = 0, responses: int | None = None
) -> pd.DataFrame:
    """Measure the rewards of each split: distribution, agreement with the ratings, dependence on length, RAO's targets.

    - `pair_accuracy`: share of differently rated pairs that the rewards order as the ratings do, a tie counting 0.5;
      mean over groups. `length_only_accuracy` is that of preferring the longer response.
    - `length_correlation` and `rating_length_correlation`: Spearman's, within a group; mean over the groups where both
      vary.
    - `saturation`: share of rewards within 1 % of the table's range from either end. If the scale is long enough, it is
      about 2 %.
    - `outliers`: share of rewards implausibly far from the training rewards (`rewards.outliers`).
    - If there are transforms, `raw_reward_mean` and `raw_reward_std`, and the same after each of them
      (`after_clip_mean`); `clipped`, the share that `reward_modeling.clip` changed; `order_changed`, the share of pairs
      of a group that the raw rewards order otherwise; and `raw_length_correlation`.
    - `chosen_target_is_up`: P(r_w > beta log_z0), the share of chosen responses whose likelihood RAO raises at step 0,
      where every D_i is 0; NaN for `log_z0: estimated`, which is not known yet (`log_z0_report` has it).
    - `suggested_log_z0`: what `log_z0: auto` solves to, in nats.
    - `raw_reward_at_zero_target`: the raw reward above which RAO raises a response of the median length; NaN beyond
      what the transforms can give, and left out for `quantile_per_prompt`, which has no inverse.

    Args:
        reward_annotated: Table of `rewards.annotation.read_rewards`.
        rao: Parameters of the RAO run that will train with these rewards; it solves `log_z0: auto` in the same way.
        seed: Seed of the resampling for the intervals.
        responses: The run's `responses_per_prompt`: the maximum number of responses per group.

    Returns:
        Columns `split, metric, value, low, high, n`. A mean over groups comes with its 95 % interval over the n groups.
    """
    train = training_rewards(reward_annotated, responses)
    objective = make_objective("rao", **rao)
    suggested = replace(objective, log_z0="auto").solve_log_z0(train)
    log_z0 = objective.calibrate(train).log_z0
    threshold = np.nan if isinstance(log_z0, str) else objective.beta * log_z0
    moments, steps = robust_moments(train.flat), recorded_transforms(reward_annotated)
    rewards = np.concatenate(list(reward_annotated["rewards"]))
    ends = float(rewards.min()), float(rewards.max())
    rows: list[tuple[Any, ...]] = []
    for split, table in reward_annotated.groupby("split", sort=False):
        rows += [(split, *row) for row in _distribution(table, *ends, *moments) + _by_group(table, threshold, seed)]
        rows += [(split, *row) for row in _effects(table, steps, seed)]
    rows.append(("train", "suggested_log_z0", suggested, np.nan, np.nan, len(train)))
    if steps and all(step["name"] != "quantile_per_prompt" for step in steps):
        lengths = np.concatenate(list(reward_annotated["response_lengths"][reward_annotated["split"] == "train"]))
        raw = invert_transforms(steps, np.array([threshold]), np.median(lengths, keepdims=True))
        rows.append(("train", "raw_reward_at_zero_target", float(raw[0]), np.nan, np.nan, len(train)))
    return pd.DataFrame(rows, columns=["split", "metric", "value", "low", "high", "n"])


class GroupRewards(Sequence[list[float]]):
    """Rewards `[groups][responses]` in one array; the list of a group is made when it is asked for."""

    def __init__(self, rewards: Iterable[Sequence[float]]) -> None:
        """Copy the rewards of each group."""
        self.flat, self._ends = array("d"), array("q", [0])
        for of_group in rewards:
            self.flat.extend(of_group)
            self._ends.append(len(self.flat))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> list[float]: ...

    @overload
    def __getitem__(self, at: slice) -> list[list[float]]: ...

    def __getitem__(self, at: int | slice) -> list[float] | list[list[float]]:
        groups = range(len(self))[at]
        if isinstance(groups, range):
            return [self[group] for group in groups]
        return self.flat[self._ends[groups] : self._ends[groups + 1]].tolist()


def training_rewards(reward_annotated: pd.DataFrame, responses: int | None = None) -> GroupRewards:
    """Return the rewards of the training groups in the column order of training.

    Args:
        reward_annotated: Table of `rewards.annotation.read_rewards`.
        responses: Maximum number of responses per group; None for all.
    """
    train = reward_annotated[reward_annotated["split"] == "train"]
    return GroupRewards(
        [rewards[i] for i in response_order(chosen, rejected, len(rewards))[:responses]]
        for rewards, chosen, rejected in zip(train["rewards"], train["chosen"], train["rejected"], strict=True)
    )


def _distribution(table: pd.DataFrame, low: float, high: float, median: float, spread: float) -> list[tuple[Any, ...]]:
    """Return metrics of all responses together.

    Args:
        table: Groups of a split.
        low: Lowest reward of the whole table.
        high: Highest reward of the whole table.
        median: Median of the training rewards.
        spread: Robust standard deviation of the training rewards.
    """
    rewards = np.concatenate(list(table["rewards"]))
    near_an_end = np.minimum(rewards - low, high - rewards) <= SATURATED * (high - low)
    values = {"reward_mean": rewards.mean(), "reward_std": rewards.std(), "saturation": near_an_end.mean()}
    values["outliers"] = (np.abs(rewards - median) > OUTLIER * spread).mean() if spread else 0.0
    values |= {
        f"reward_quantile_{q:g}": value for q, value in zip(QUANTILES, np.quantile(rewards, QUANTILES), strict=True)
    }
    return [(name, float(value), np.nan, np.nan, len(rewards)) for name, value in values.items()]


def _effects(table: pd.DataFrame, steps: Sequence[Transform], seed: int) -> list[tuple[Any, ...]]:
    """Return the rewards' moments after each transform, and how much the transforms together changed within groups."""
    from rao_kedro.statistics import mean_interval

    if not steps:
        return []
    sizes = [len(of_group) for of_group in table["raw_rewards"]]
    rewards, lengths = (np.concatenate(list(table[name])) for name in ("raw_rewards", "response_lengths"))
    values = {"raw_reward_mean": rewards.mean(), "raw_reward_std": rewards.std()}
    for step in steps:
        before, rewards = rewards, transform([step], rewards, lengths, sizes)
        if step["name"] == "clip":
            values["clipped"] = (rewards != before).mean()
        values |= {f"after_{step['name']}_mean": rewards.mean(), f"after_{step['name']}_std": rewards.std()}
    rows: list[tuple[Any, ...]] = [(name, float(value), np.nan, np.nan, len(rewards)) for name, value in values.items()]
    pairs = zip(table["raw_rewards"], table["rewards"], strict=True)
    rows.append(("order_changed", *mean_interval([_order_changed(*pair) for pair in pairs], (0, 1), seed)))
    correlations = np.array(
        [_correlation(*of) for of in zip(table["raw_rewards"], table["response_lengths"], strict=True)]
    )
    of_groups = correlations[~np.isnan(correlations)]
    return [*rows, ("raw_length_correlation", *mean_interval(of_groups, (-1, 1), seed))]


def _order_changed(raw_rewards: Sequence[float], rewards: Sequence[float]) -> float:
    """Return the share of a group's pairs of responses that two rewards order differently, ties included."""
    before, after = (np.sign(np.subtract.outer(np.asarray(of), np.asarray(of))) for of in (raw_rewards, rewards))
    return float((before != after).sum() / (len(before) * (len(before) - 1)))


def _by_group(table: pd.DataFrame, threshold: float, seed: int) -> list[tuple[Any, ...]]:
    """Return the metrics that are means over groups, with their intervals."""
    from rao_kedro.statistics import mean_interval

    columns = (table[name] for name in ("rewards", "ratings", "response_lengths", "chosen", "rejected", "truncated"))
    per_group = np.empty((len(table), len(GROUP_METRICS)))  # a dictionary of each would be a kilobyte
    for row, group in enumerate(zip(*columns, strict=True)):
        per_group[row] = _of_group(threshold, *group)
    found = zip(GROUP_METRICS, per_group.T, strict=True)
    return [(name, *mean_interval(values[~np.isnan(values)], BOUNDS.get(name, (0, 1)), seed)) for name, values in found]


def _of_group(
    threshold: float,
    rewards: Sequence[float],
    ratings: Sequence[float],
    lengths: Sequence[int],
    chosen: int,
    rejected: int,
    truncated: Sequence[bool],
) -> tuple[float, ...]:
    """Return the `GROUP_METRICS` of a group."""
    better, worse = np.nonzero(np.subtract.outer(np.asarray(ratings), np.asarray(ratings)) > 0)
    gaps, longer = (np.asarray(values)[better] - np.asarray(values)[worse] for values in (rewards, lengths))
    return (
        float(np.mean((gaps > 0) + 0.5 * (gaps == 0))),
        float(np.mean((longer > 0) + 0.5 * (longer == 0))),
        float(np.mean(gaps == 0)),
        float(rewards[chosen] - rewards[rejected]),
        _correlation(rewards, lengths),
        _correlation(ratings, lengths),
        float(np.mean(truncated)),
        np.nan if np.isnan(threshold) else float(rewards[chosen] > threshold),
    )


def _correlation(values: Sequence[float], lengths: Sequence[int]) -> float:
    from scipy.stats import spearmanr  # the import takes a second

    if len(set(values)) < 2 or len(set(lengths)) < 2:
        return np.nan
    if len(lengths) == 2:
        return 1.0 if (values[0] < values[1]) == (lengths[0] < lengths[1]) else -1.0
    return float(spearmanr(values, lengths).statistic)


def accuracy_by_gap(reward_annotated: pd.DataFrame, bins: int = 5, seed: int = 0) -> pd.DataFrame:
    """Return the accuracy of the rewards on rated pairs, by the size of the gap between the two rewards.

    A calibrated reward model is near 0.5 for small gaps and near 1 for large ones. A tie counts 0.5. The accuracy of a
    bin is a mean over the groups with pairs in it: pairs of one group share responses and are not independent.

    Args:
        reward_annotated: Table of `rewards.annotation.read_rewards`.
        bins: Number of bins; the pairs of a split are cut by the absolute gap into bins of equal size.
        seed: Seed of the resampling for the intervals.

    Returns:
        Columns `split, gap_low, gap_high, gap_mean, accuracy, low, high, n`, with 95 % intervals over the n groups.
    """
    from rao_kedro.statistics import mean_interval

    rows = []
    for split, table in reward_annotated.groupby("split", sort=False):
        gaps, groups = array("d"), array("q")
        for group, (rewards, ratings) in enumerate(zip(table["rewards"], table["ratings"], strict=True)):
            better, worse = np.nonzero(np.subtract.outer(np.asarray(ratings), np.asarray(ratings)) > 0)
            gaps.extend(np.asarray(rewards)[better] - np.asarray(rewards)[worse])
            groups.extend([group] * len(better))
        pairs = pd.DataFrame({"gap": np.asarray(gaps), "group": np.asarray(groups)})
        pairs = pairs.iloc[np.argsort(pairs["gap"].abs(), kind="stable")]
        pairs["bin"] = np.repeat(range(bins), [len(part) for part in np.array_split(pairs["gap"], bins)])
        for _, part in pairs.groupby("bin"):
            right, size = (part["gap"] > 0) + 0.5 * (part["gap"] == 0), part["gap"].abs()
            accuracy = mean_interval(right.groupby(part["group"]).mean().tolist(), (0, 1), seed)
            rows.append((split, size.min(), size.max(), size.mean(), *accuracy))
    columns = ["split", "gap_low", "gap_high", "gap_mean", "accuracy", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def target_grid(
    reward_annotated: pd.DataFrame,
    betas: Sequence[float] = GRID_BETAS,
    log_z0s: Sequence[float] = GRID_LOG_Z0S,
    rao: Mapping[str, Any] | None = None,
    responses: int | None = None,
) -> pd.DataFrame:
    """Return the targets that RAO would have with other values of beta and log_z0.

    Args:
        reward_annotated: Table of `rewards.annotation.read_rewards`; only its training split is read.
        betas: Values of beta, in reward units per nat.
        log_z0s: Values of log_z0, in nats; for each beta the solution of `log_z0: auto` is added.
        rao: The other parameters of the RAO run; `log_z0: auto` uses its `margin` and `reduction`.
        responses: The run's `responses_per_prompt`: the maximum number of responses per group.

    Returns:
        Columns `beta, log_z0, suggested, chosen_target_is_up` (P(r_w > beta log_z0)), and the mean target log-ratios
        `r / beta - log_z0` of the chosen and of the rejected responses, in nats.
    """
    auto = make_objective("rao", **{**(rao or {}), "log_z0": "auto"})
    train = reward_annotated[reward_annotated["split"] == "train"]
    chosen, rejected = (
        np.array([rewards[i] for rewards, i in zip(train["rewards"], train[role], strict=True)])
        for role in ("chosen", "rejected")
    )
    rows = []
    of_training = training_rewards(train, responses)
    for beta in betas:
        suggested = replace(auto, beta=beta).solve_log_z0(of_training)
        for log_z0, is_suggested in [(suggested, True), *((value, False) for value in log_z0s)]:
            targets = (float((role / beta - log_z0).mean()) for role in (chosen, rejected))
            rows.append((beta, log_z0, is_suggested, float((chosen > beta * log_z0).mean()), *targets))
    columns = ["beta", "log_z0", "suggested", "chosen_target_is_up", "target_chosen", "target_rejected"]
    return pd.DataFrame(rows, columns=columns)
