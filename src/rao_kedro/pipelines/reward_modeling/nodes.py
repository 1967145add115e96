"""Nodes of reward modelling."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.config.reward_modeling import Normalisation
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AnnotationSpec, RewardTrainingSpec
from rao_kedro.config.training import TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.splits import SplitsOf
from rao_kedro.data.table_files import require_room
from rao_kedro.data.tokenize import GroupTokenizer, Pairing, TokenLimits
from rao_kedro.data.tokenized_tables import write_tokenized
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.checks import check_settings, check_tokens
from rao_kedro.models.hub import local_checkpoint
from rao_kedro.objectives import make_objective
from rao_kedro.reporting.reward_figures import reward_calibration
from rao_kedro.rewards.annotation import join_rewards, read_rewards
from rao_kedro.rewards.outliers import outlier_remark
from rao_kedro.rewards.reliability import (
    GRID_BETAS,
    accuracy_by_gap,
    calibration_report,
    target_grid,
    training_rewards,
)
from rao_kedro.workers import launch

logger = logging.getLogger(__name__)


def train_reward_model(
    base_model: Path,
    sft_model: Path,
    tokenized_groups: Path,
    preference_groups: Path,
    start: str,
    centering: float,
    margin: float,
    training: TrainingParameters,
    max_prompt_tokens: int,
    max_response_tokens: int,
    pairing: Pairing,
    seed: int,
    num_proc: int,
    workers: WorkerParameters,
) -> tuple[Path, pd.DataFrame]:
    """Train a Bradley-Terry reward model from the SFT model, the base model, or another one.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    model_dir = {"sft_model": sft_model, "base_model": base_model}.get(start)
    with workers.reserve("reward_model") as workspace:
        if model_dir is None:
            model_dir = local_checkpoint(start)
            check_settings(model_dir)
            chat = load_chat_format(model_dir)
            check_tokens(chat.tokenizer, model_dir)
            limits = TokenLimits(max_prompt_tokens, max_response_tokens)
            tokenizer = GroupTokenizer(chat, limits, pairing, seed)
            # Each group stays in the split that it has for the policy.
            splits, tokenized_groups = SplitsOf(tokenized_groups), workspace / "groups.parquet"
            write_tokenized(preference_groups, tokenized_groups, tokenizer, num_proc, splits)
        spec = RewardTrainingSpec(
            workspace=workspace,
            model_dir=model_dir,
            groups_path=tokenized_groups,
            training=training,
            centering=centering,
            margin=margin,
        )
        launch(spec, workers, metric_prefix="reward_model.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True)


def annotate_responses(
    sft_model: Path,
    reward_model: Path,
    tokenized_groups: Path,
    reward: RewardParameters,
    mixed_precision: str,
    normalisation: Normalisation,
    clip: float | None,
    length_penalty: float,
    pairing: Pairing,
    seed: int,
    workers: WorkerParameters,
) -> tuple[Path, Path]:
    """Score every response of every group.

    Returns:
        Paths of tables of `AnnotatedGroupTable`, and of `QuarantineTable`: responses that could not be scored.
    """
    workspace = workers.workspace("annotation")
    require_room(workspace, tokenized_groups.stat().st_size, "annotating")
    spec = AnnotationSpec(
        workspace=workspace,
        groups_path=tokenized_groups,
        reward=reward.with_defaults(reward_model, sft_model, mixed_precision, workspace),
        output_path=workspace / "rewards.parquet",
    )
    launch(spec, workers)
    return join_rewards(
        tokenized_groups, spec.output_path, workspace, normalisation, pairing, seed, clip, length_penalty
    )


def report_rewards(
    reward_annotated: Path, rao: Mapping[str, Any], responses_per_prompt: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the report on the rewards, for the beta and log_z0 that RAO will be trained with.

    Logs a warning if a few rewards lie implausibly far from the others, since they would dominate RAO's targets.

    Returns:
        The report, and RAO's targets for other values of beta and log_z0.
    """
    objective = make_objective("rao", **rao)
    rewards = read_rewards(reward_annotated)
    train = training_rewards(rewards, responses_per_prompt)
    names = rewards.loc[rewards["split"] == "train", "group_id"].array
    if remark := outlier_remark(names, train, objective):
        logger.warning("%s", remark)
    betas = sorted({*GRID_BETAS, objective.beta})
    grid = target_grid(rewards, betas, rao=rao, responses=responses_per_prompt)
    return calibration_report(rewards, rao, responses=responses_per_prompt), grid


def plot_calibration(reward_annotated: Path, grid: pd.DataFrame) -> go.Figure:
    """Return the calibration of the rewards as a figure."""
    rewards = read_rewards(reward_annotated)
    return reward_calibration(rewards, accuracy_by_gap(rewards), grid)
