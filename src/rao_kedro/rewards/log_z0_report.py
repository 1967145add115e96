"""The choices of RAO's log_z0 beside each other, with their errors and the targets that they imply. Knows no model."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from rao_kedro.data.table_files import read_rows
from rao_kedro.objectives import make_objective
from rao_kedro.objectives.log_z0 import estimate_log_z0
from rao_kedro.rewards.reliability import training_rewards

PAPER = 50.0  # nats


def compare_log_z0(
    reward_annotated: pd.DataFrame, reference_rewards: Path, rao: Mapping[str, Any], responses: int | None = None
) -> pd.DataFrame:
    """Compare `log_z0: auto`, `log_z0: estimated`, the paper's 50 nats, and the parameter itself if it is a number.

    Args:
        reward_annotated: Table of `rewards.annotation.read_rewards`; only its training split is read.
        reference_rewards: Table of `ReferenceRewardTable`.
        rao: Parameters of the RAO run.
        responses: The run's `responses_per_prompt`.

    Returns:
        Table of `LogZ0ReportTable`. `n_samples` are the responses that a value was computed from: those of the training
        data for `auto`, and those of the reference for `estimated`. The standard error of `auto` is over prompts, too.
    """
    own = make_objective("rao", **rao)
    train = training_rewards(reward_annotated, responses)
    names = set(reward_annotated.loc[reward_annotated["split"] == "train", "group_id"])
    sampled = (
        row["rewards"] for row in read_rows(reference_rewards, ["group_id", "rewards"]) if row["group_id"] in names
    )
    estimate = estimate_log_z0(sampled, own.beta)
    margin = own.margin if own.log_z0 == "auto" else 0.0
    auto = replace(own, log_z0="auto", margin=margin).solve_log_z0(train)
    means = [fmean(rewards) / own.beta for rewards in train]
    error = stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    rows: list[tuple[Any, ...]] = [
        ("auto", auto, error, math.nan, len(train), len(train.flat)),
        ("estimated", estimate.value, estimate.standard_error, estimate.bias, estimate.prompts, estimate.samples),
        ("paper", PAPER, math.nan, math.nan, 0, 0),
    ]
    if not isinstance(own.log_z0, str):
        rows.append(("parameter", float(own.log_z0), math.nan, math.nan, 0, 0))
    columns = ["log_z0", "value", "standard_error", "jackknife_bias", "n_prompts", "n_samples"]
    table = pd.DataFrame(rows, columns=columns)
    table["mean_target_log_ratio"] = fmean(means) - table["value"]
    chosen = [rewards[0] for rewards in train]
    table["chosen_target_is_up"] = [fmean(reward > own.beta * value for reward in chosen) for value in table["value"]]
    return table
