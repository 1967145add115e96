"""Nodes of reward modelling."""

import logging
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.files import alone_in_workspace
from rao_kedro.models.chat import load_chat_format
from rao_kedro.models.checks import check_settings, check_tokens
from rao_kedro.models.hub import local_checkpoint
from rao_kedro.preferences.tokenize import TokenLimits, tokenize_groups
from rao_kedro.reporting.calibration_figures import reward_calibration
from rao_kedro.rewards.annotation import annotate
from rao_kedro.rewards.calibration import (
    GRID_BETAS,
    accuracy_by_gap,
    calibration_report,
    target_grid,
    training_rewards,
)
from rao_kedro.rewards.outliers import outlier_remark
from rao_kedro.schemas.parameters import DataParameters, MethodParameters, RewardModelingParameters
from rao_kedro.schemas.specs import AnnotationSpec, RewardTrainingSpec
from rao_kedro.training.launch import launch, read_training_log

logger = logging.getLogger(__name__)


@alone_in_workspace
def train_reward_model(
    base_model: Path,
    sft_model: Path,
    tokenized_groups: Path,
    preference_groups: pd.DataFrame,
    parameters: RewardModelingParameters,
    data: DataParameters,
    accelerate_config: Path,
    workspace: Path,
) -> tuple[Path, pd.DataFrame]:
    """Train a Bradley-Terry reward model from the SFT model, the base model, or another one.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    start = {"sft_model": sft_model, "base_model": base_model}.get(parameters.start)
    if start is None:
        start = local_checkpoint(parameters.start)
        check_settings(start)
        parts = pd.read_parquet(tokenized_groups, columns=["group_id", "split"])
        tokenized_groups = workspace / "groups.parquet"
        _tokenized_for(start, preference_groups, parts, data).to_parquet(tokenized_groups)
    spec = RewardTrainingSpec(
        workspace=workspace,
        model_dir=start,
        groups_path=tokenized_groups,
        training=parameters.training,
        centering=parameters.centering,
        margin=parameters.margin,
    )
    launch("reward", spec, accelerate_config, metric_prefix="reward_model.")
    return workspace / "model", read_training_log(workspace)


def _tokenized_for(
    model: Path, preference_groups: pd.DataFrame, parts: pd.DataFrame, data: DataParameters
) -> pd.DataFrame:
    """Return the groups as tokens of another model than the policy, in the parts that they have for the policy."""
    limits = TokenLimits(data.max_prompt_tokens, data.max_response_tokens)
    chat = load_chat_format(model)
    check_tokens(chat.tokenizer, model)
    groups = preference_groups.drop(columns="split").merge(parts, on="group_id", validate="one_to_one")
    return tokenize_groups(groups, chat, limits, data.pairing, data.seed)[0]


def annotate_responses(
    sft_model: Path,
    reward_model: Path,
    tokenized_groups_path: Path,
    tokenized_groups: pd.DataFrame,
    parameters: RewardModelingParameters,
    data: DataParameters,
    accelerate_config: Path,
    workspace: Path,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every response of every group.

    Returns:
        Tables of `RewardAnnotated`, and of `QuarantinedRows`: responses that could not be scored.
    """
    reward = parameters.reward.with_defaults(reward_model, sft_model, parameters.training.mixed_precision, workspace)
    output = workspace / "rewards.parquet"
    spec = AnnotationSpec(workspace=workspace, groups_path=tokenized_groups_path, reward=reward, output_path=output)
    launch("annotate", spec, accelerate_config)
    return annotate(
        tokenized_groups, pd.read_parquet(output), parameters.normalisation, data.pairing, data.seed, parameters.clip
    )


def report_rewards(reward_annotated: pd.DataFrame, rao: MethodParameters) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what a reader needs to trust the rewards, for the beta and log_z0 that RAO will be trained with.

    A few rewards that lie implausibly far from all others, which would carry the targets, are told in the log.

    Returns:
        The report, and what RAO would aim at with other values of both.
    """
    from rao_kedro.objectives.rao import RAO  # its package imports torch

    objective, responses = RAO(**rao.parameters), rao.responses_per_prompt  # type: ignore[arg-type]  # checked before
    train = training_rewards(reward_annotated, responses)
    groups = dict(zip(reward_annotated.loc[reward_annotated["split"] == "train", "group_id"], train, strict=True))
    solve = (lambda rewards: float(objective.calibrate(rewards).log_z0)) if objective.log_z0 == "auto" else None
    if remark := outlier_remark(groups, objective.beta, solve):
        logger.warning("%s", remark)
    betas = sorted({*GRID_BETAS, objective.beta})
    grid = target_grid(reward_annotated, betas, rao=rao.parameters, responses=responses)
    return calibration_report(reward_annotated, rao.parameters, responses=responses), grid


def plot_calibration(reward_annotated: pd.DataFrame, grid: pd.DataFrame) -> go.Figure:
    """Return the calibration of the rewards as a figure."""
    return reward_calibration(reward_annotated, accuracy_by_gap(reward_annotated), grid)
