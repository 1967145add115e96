"""How well rewards order held-out responses (the paper's Table 1). Knows tables; no models."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rao_kedro.statistics import mean_interval

LENGTH_ONLY = "longer response"


def pair_outcomes(ratings: Sequence[float], rewards: Sequence[float]) -> tuple[float, float]:
    """Return the mean Bradley-Terry loss in nats and the accuracy over the pairs of differently rated responses.

    A pair with equal rewards counts half in the accuracy.

    Args:
        ratings: One per response.
        rewards: One per response.
    """
    better, worse = np.nonzero(np.subtract.outer(ratings, ratings) > 0)
    margins = np.asarray(rewards, dtype=float)[better] - np.asarray(rewards, dtype=float)[worse]
    loss = np.logaddexp(0.0, -margins).mean()
    return float(loss), float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def group_outcomes(groups: pd.DataFrame, rewards: pd.DataFrame) -> pd.DataFrame:
    """Return columns `group_id, loss, accuracy`, a row per group.

    Args:
        groups: Columns `group_id, ratings`.
        rewards: Columns `group_id, rewards`; rewards are in the order of the group's responses.
    """
    joined = groups.merge(rewards[["group_id", "rewards"]], on="group_id", validate="one_to_one")
    rows = [
        (group_id, *pair_outcomes(ratings, values))
        for group_id, ratings, values in zip(joined["group_id"], joined["ratings"], joined["rewards"], strict=True)
    ]
    return pd.DataFrame(rows, columns=["group_id", "loss", "accuracy"])


def length_outcomes(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the outcomes of preferring the response with more tokens, of `response_lengths`; the loss is NaN."""
    rewards = groups[["group_id"]].assign(rewards=groups["response_lengths"])
    return group_outcomes(groups, rewards).assign(loss=math.nan)


def accuracy_table(outcomes: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return a row per form and size of a reward model.

    Args:
        outcomes: Outcomes of `group_outcomes` with further columns `form, size, train_groups, seed`.
        seed: Seeds the resampling of intervals.

    Returns:
        Loss and accuracy with 95 % intervals over the `n` held-out groups, where a group's value is its mean over the
        training seeds; and the standard deviation of the accuracy over these seeds.
    """
    rows = []
    for (form, size, train_groups), of_runs in outcomes.groupby(["form", "size", "train_groups"], sort=False):
        by_group = of_runs.groupby("group_id")[["loss", "accuracy"]].mean()
        loss = mean_interval(by_group["loss"].dropna().tolist(), None, seed)  # `length_outcomes` have no loss
        accuracy = mean_interval(by_group["accuracy"].tolist(), (0, 1), seed)
        by_seed = of_runs.groupby("seed")["accuracy"].mean()
        rows.append(
            {
                "form": form,
                "size": size,
                "train_groups": train_groups,
                "loss": loss.mean,
                "loss_low": loss.low,
                "loss_high": loss.high,
                "accuracy": accuracy.mean,
                "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high,
                "accuracy_std_over_seeds": float(by_seed.std()),
                "seeds": len(by_seed),
                "n": accuracy.n,
            }
        )
    return pd.DataFrame(rows)
