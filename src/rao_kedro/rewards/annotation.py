"""Joins rewards to prompt groups, and quarantines responses without a reward. Pandas only: knows no model."""

import json
import random
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from rao_kedro.data.quarantine import QuarantineReason, quarantined_row, quarantined_table
from rao_kedro.data.tokenize import Pairing, choose_pair
from rao_kedro.errors import DataError
from rao_kedro.rewards.outliers import robust_moments

Normalisation = Literal["none", "standardise"]
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
PER_RESPONSE = ("responses", "response_ids", "ratings", "finished", "raw_rewards", "truncated")


def join_rewards(
    tokenized_groups: pd.DataFrame,
    scores: pd.DataFrame,
    normalisation: Normalisation,
    pairing: Pairing,
    seed: int,
    clip: float | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add rewards to groups, clipped and normalised as the arguments say.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable`.
        scores: Columns `group_id`, `rewards`, `truncated`, `failures`, `reward_model`.
        normalisation: "standardise" gives rewards mean 0 and standard deviation 1 over the training split.
        pairing: How a pair is chosen in a group that lost responses; see `choose_pair`.
        seed: Seed of the random pairing.
        clip: Largest distance from the median of the training split, in robust standard deviations; rewards are clipped
            to it before they are standardised. None does not clip.

    Returns:
        Tables of `AnnotatedGroupTable` and `QuarantineTable`.

    Raises:
        DataError: A group has no row of scores, no training group is left, or all rewards are equal.
    """
    scores = scores.rename(columns={"rewards": "raw_rewards"})
    joined = tokenized_groups.merge(scores, on="group_id", how="left", validate="one_to_one")
    unscored = joined.loc[joined["raw_rewards"].isna(), "group_id"]
    if len(unscored):
        raise DataError(
            f"{len(unscored)} groups have no rewards, for example {unscored.iloc[0]}: annotate the responses again"
        )
    rows, dropped = [], []
    for record in joined.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        dropped += _failures(row)
        if (kept := _of_scored_responses(row, pairing, seed)) is not None:
            rows.append(kept)
    if not any(row["split"] == "train" for row in rows):
        example = f"for example: {dropped[0]['detail']}" if dropped else ""
        why = f"{len(dropped)} responses got no reward, {example}" if dropped else "the table of groups has none"
        raise DataError(f"no training group is left: {why}")
    table = pd.DataFrame(rows).drop(columns="failures")
    return _with_statistics(table, normalisation, clip), quarantined_table(dropped)


def _failures(row: Mapping[str, Any]) -> list[dict[str, str]]:
    reason = QuarantineReason.UNSCORED_RESPONSE
    return [
        quarantined_row(row["group_id"], reason, failure, {"response": response})
        for failure, response in zip(row["failures"], row["responses"], strict=True)
        if failure
    ]


def _of_scored_responses(row: dict[str, Any], pairing: Pairing, seed: int) -> dict[str, Any] | None:
    """Return a row without the responses that got no reward; None if no preference is left."""
    if not any(row["failures"]):
        return row
    kept = [i for i, failure in enumerate(row["failures"]) if not failure]
    row = row | {name: [row[name][i] for i in kept] for name in PER_RESPONSE}
    if len(set(row["ratings"])) < 2:
        return None
    chosen, rejected = choose_pair(row["ratings"], pairing, random.Random(f"{seed}-{row['group_id']}"))
    return row | {"chosen": chosen, "rejected": rejected}


def _with_statistics(table: pd.DataFrame, normalisation: Normalisation, clip: float | None) -> pd.DataFrame:
    """Add the final rewards, the transforms that made them, and their mean, standard deviation and quantiles."""
    raw = np.concatenate(list(table["raw_rewards"]))
    if len(raw) > 1 and np.ptp(raw) == 0.0:
        raise DataError(f"all {len(raw)} rewards are {raw[0]}: the reward does not distinguish responses")
    training = np.concatenate(list(table.loc[table["split"] == "train", "raw_rewards"]))
    rewards = [np.asarray(values, dtype=float) for values in table["raw_rewards"]]
    transforms: list[dict[str, Any]] = []
    if clip is not None:
        median, spread = robust_moments(training)
        low, high = median - clip * spread, median + clip * spread
        rewards, training = [np.clip(values, low, high) for values in rewards], np.clip(training, low, high)
        transforms.append({"name": "clip", "low": low, "high": high})
    if normalisation == "standardise":
        mean, std = float(training.mean()), float(training.std())
        rewards = [(values - mean) / std for values in rewards]
        transforms.append({"name": "standardise", "mean": mean, "std": std})
    flat = np.concatenate(rewards)
    return table.assign(
        rewards=[values.tolist() for values in rewards],
        reward_transforms=json.dumps(transforms),
        reward_mean=float(flat.mean()),
        reward_std=float(flat.std()),
        reward_quantiles=[np.quantile(flat, QUANTILES).tolist()] * len(table),
    )


def clip_bounds(reward_annotated: pd.DataFrame) -> tuple[float, float] | None:
    """Return the bounds to which raw rewards of an `AnnotatedGroupTable` were clipped; None if they were not."""
    for transform in json.loads(reward_annotated["reward_transforms"].iloc[0]):
        if transform["name"] == "clip":
            return transform["low"], transform["high"]
    return None
