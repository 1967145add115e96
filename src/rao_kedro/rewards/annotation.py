"""Joins rewards to prompt groups, and reports how far they can be trusted. Pandas only: knows no model."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rao_kedro.errors import DataError


def annotate(tokenized_groups: pd.DataFrame, rewards: pd.DataFrame, reward_model: str) -> pd.DataFrame:
    """Return `tokenized_groups` with their rewards, the reward model's identity, and the rewards' mean and std.

    Args:
        tokenized_groups: Table of `TokenizedGroups`.
        rewards: Columns `group_id`, `rewards`.
        reward_model: Content hash of what scored them, or "ratings".

    Raises:
        DataError: A group was not scored, or all rewards are the same number.
    """
    annotated = tokenized_groups.merge(rewards, on="group_id", how="left", validate="one_to_one")
    unscored = annotated.loc[annotated["rewards"].isna(), "group_id"]
    if len(unscored):
        raise DataError(f"{len(unscored)} groups have no rewards, the first is {unscored.iloc[0]}: annotate again")
    flat = np.concatenate(list(annotated["rewards"]))
    if len(flat) > 1 and float(flat.std()) == 0.0:
        raise DataError(f"all {len(flat)} rewards are {flat[0]}: the reward model has learnt nothing")
    return annotated.assign(reward_model=reward_model, reward_mean=float(flat.mean()), reward_std=float(flat.std()))


def standardised_ratings(tokenized_groups: pd.DataFrame) -> pd.DataFrame:
    """Return the ratings as rewards: mean 0 and standard deviation 1 over the responses of the training split.

    Args:
        tokenized_groups: Table of `TokenizedGroups`; its ratings differ within every group.

    Returns:
        Columns `group_id`, `rewards`.
    """
    of_training = np.concatenate(list(tokenized_groups.loc[tokenized_groups["split"] == "train", "ratings"]))
    mean, std = of_training.mean(), of_training.std()
    rewards = [((np.asarray(ratings) - mean) / std).tolist() for ratings in tokenized_groups["ratings"]]
    return pd.DataFrame({"group_id": tokenized_groups["group_id"], "rewards": rewards})


def reward_report(reward_annotated: pd.DataFrame, rao: Mapping[str, float | str | bool]) -> pd.DataFrame:
    """Return per split what a reader needs to trust the rewards, as a table of `split, metric, value, n`.

    Args:
        reward_annotated: Table of `RewardAnnotated`.
        rao: Parameters of the RAO run that these rewards are for; `log_z0: auto` is solved as that run will solve it.

    Pair accuracy is over all pairs of differently rated responses; `chosen_target_is_up` is P(r_w > beta log_z0), the
    share of chosen responses whose likelihood RAO raises (step 0, where every D_i is 0).
    """
    from rao_kedro.objectives.calibration import solved  # its package imports torch
    from rao_kedro.objectives.rao import RAO

    train = reward_annotated.loc[reward_annotated["split"] == "train", "rewards"]
    objective = RAO(**solved(rao, list(train)))
    threshold = objective.beta * float(objective.log_z0)
    rows = []
    for split, table in reward_annotated.groupby("split"):
        pairs = [
            float(rewards[i] > rewards[j])
            for ratings, rewards in zip(table["ratings"], table["rewards"], strict=True)
            for i in range(len(ratings))
            for j in range(len(ratings))
            if ratings[i] > ratings[j]
        ]
        columns = zip(table["rewards"], table["chosen"], table["rejected"], strict=True)
        chosen, rejected = np.array([(r[c], r[j]) for r, c, j in columns]).T
        flat = np.concatenate(list(table["rewards"]))
        rows += [
            (split, "pair_accuracy", float(np.mean(pairs)), len(pairs)),
            (split, "reward_mean", float(flat.mean()), len(flat)),
            (split, "reward_std", float(flat.std()), len(flat)),
            (split, "chosen_minus_rejected", float((chosen - rejected).mean()), len(table)),
            (split, "chosen_target_is_up", float((chosen > threshold).mean()), len(table)),
        ]
    return pd.DataFrame(rows, columns=["split", "metric", "value", "n"])
