"""Nodes of reward modelling."""

from pathlib import Path

import pandas as pd

from rao_kedro.models.identity import content_hash
from rao_kedro.rewards.annotation import annotate, reward_report, standardised_ratings
from rao_kedro.schemas.parameters import DataParameters, MethodParameters, RewardModelingParameters
from rao_kedro.schemas.specs import RewardTrainingSpec, ScoringSpec
from rao_kedro.training.launch import launch, read_training_log


def train_reward_model(
    sft_model: Path,
    tokenized_groups: Path,
    parameters: RewardModelingParameters,
    data: DataParameters,
    accelerate_config: Path,
    workspace: Path,
) -> tuple[Path, pd.DataFrame]:
    """Train a Bradley-Terry reward model on the SFT model.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    spec = RewardTrainingSpec(
        workspace=workspace,
        model_dir=sft_model,
        groups_path=tokenized_groups,
        t0_length=data.t0_length,
        training=parameters.training,
        centering=parameters.centering,
    )
    launch("reward", spec, accelerate_config, metric_prefix="reward_model.")
    return workspace / "model", read_training_log(workspace)


def annotate_responses(
    reward_model: Path,
    tokenized_groups_path: Path,
    tokenized_groups: pd.DataFrame,
    parameters: RewardModelingParameters,
    data: DataParameters,
    accelerate_config: Path,
    workspace: Path,
) -> pd.DataFrame:
    """Score every response of every group with the reward model, or take the ratings of the data."""
    if parameters.rewards == "ratings":
        return annotate(tokenized_groups, standardised_ratings(tokenized_groups), "ratings")
    spec = ScoringSpec(
        workspace=workspace,
        model_dir=reward_model,
        groups_path=tokenized_groups_path,
        t0_length=data.t0_length,
        output_path=workspace / "rewards.parquet",
        max_tokens_per_batch=parameters.training.max_tokens_per_batch,
        mixed_precision=parameters.training.mixed_precision,
    )
    launch("annotate", spec, accelerate_config)
    return annotate(tokenized_groups, pd.read_parquet(spec.output_path), content_hash(reward_model))


def report_rewards(reward_annotated: pd.DataFrame, rao: MethodParameters) -> pd.DataFrame:
    """Return what a reader needs to trust the rewards, for the beta and log_z0 that RAO will be trained with."""
    return reward_report(reward_annotated, rao.parameters)
