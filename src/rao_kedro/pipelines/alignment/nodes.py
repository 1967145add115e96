"""Nodes of alignment."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rao_kedro.config.alignment import MethodParameters, ReferenceParameters
from rao_kedro.config.generation import GenerationParameters, GenerationSpec
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AlignmentSpec, AnnotationSpec, PPOSpec
from rao_kedro.config.training import KLParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.rounds import write_prompts
from rao_kedro.errors import ParameterError
from rao_kedro.files import link_or_copy
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.rewards.annotation import read_rewards
from rao_kedro.rewards.feasibility import target_feasibility
from rao_kedro.rewards.log_z0_report import compare_log_z0
from rao_kedro.rewards.reference_rewards import TRAINED, join_reference_rewards, write_sampled_groups
from rao_kedro.scoring.reference_cache import cached_reference_logprobs
from rao_kedro.workers import launch

logger = logging.getLogger(__name__)


def score_reference(
    sft_model: Path,
    reward_annotated: Path,
    parameters: ReferenceParameters,
    t0_length: int,
    workers: WorkerParameters,
) -> Path:
    """Return the table of log-probs of all responses and prompts under the SFT model, computed once per content."""
    cache = workers.workspace("reference")
    cached = cached_reference_logprobs(sft_model, reward_annotated, parameters, t0_length, workers, cache)
    return link_or_copy(cached, cache / "reference_logprobs.parquet")


def report_feasibility(
    reward_annotated: Path,
    reference_logprobs: Path,
    rao: Mapping[str, Any],
    responses_per_prompt: int | None,
    log_z0_report: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return the share of prompts whose targets cannot be met together, for the beta and log_z0 of RAO's run.

    Logs a warning if there are such prompts in the training split. `log_z0_report` says what `log_z0: estimated` is.
    """
    if log_z0_report is not None:
        [estimated] = log_z0_report.loc[log_z0_report["log_z0"] == "estimated", "value"]
        rao = {**rao, "log_z0": estimated}
    report = target_feasibility(reward_annotated, reference_logprobs, rao, responses_per_prompt)
    train = report[report["split"] == "train"].iloc[0]
    if train["infeasible"]:
        logger.warning(
            "RAO with beta %g and log_z0 %.2f: the targets of %.1f %% of %d training prompts cannot be met as long as "
            "the prompts stay as likely as under the reference: their probabilities sum to more than 1. "
            "log_z0 >= %.2f makes all of them feasible",
            *(train["beta"], train["log_z0"], 100 * train["infeasible"], train["n"], train["feasible_log_z0"]),
        )
    return report


def sample_reference(
    sft_model: Path, reward_annotated: Path, generation: GenerationParameters, workers: WorkerParameters
) -> Path:
    """Return the table of responses that the SFT model, which is the reference, writes to each training prompt.

    Prompts of validation groups are among them, since evaluations measure the loss on these.
    """
    with workers.reserve("reference_rewards") as workspace:
        write_prompts(reward_annotated, TRAINED, workspace / "prompts.parquet")
        spec = GenerationSpec(
            model_dir=sft_model,
            prompts_path=workspace / "prompts.parquet",
            output_path=workspace / "generations.parquet",
            **generation.model_dump(),
        )
        launch(spec, workers)
        return link_or_copy(spec.output_path, workspace / "reference_generations.parquet")


def reward_reference(
    sft_model: Path,
    reward_model: Path,
    reward_annotated: Path,
    reference_generations: Path,
    reward: RewardParameters,
    mixed_precision: str,
    workers: WorkerParameters,
) -> tuple[Path, Path]:
    """Score the reference's responses as the groups were annotated, and bring the rewards to the same scale.

    Returns:
        Paths of tables of `ReferenceRewardTable`, and of `QuarantineTable`: responses that could not be scored.
    """
    with workers.reserve("reference_rewards") as workspace:
        groups = workspace / "sampled_groups.parquet"
        write_sampled_groups(reference_generations, groups, load_chat_format(sft_model).end_of_turn_ids)
        spec = AnnotationSpec(
            workspace=workspace / "annotation",
            groups_path=groups,
            reward=reward.with_defaults(reward_model, sft_model, mixed_precision, workspace),
            output_path=workspace / "rewards.parquet",
        )
        launch(spec, workers)
        return join_reference_rewards(reward_annotated, reference_generations, spec.output_path, sft_model, workspace)


def report_log_z0(
    reference_rewards: Path, reward_annotated: Path, rao: Mapping[str, Any], responses_per_prompt: int | None
) -> pd.DataFrame:
    """Return a table of `LogZ0ReportTable`: choices of `log_z0` for RAO's beta, and the targets that each implies."""
    return compare_log_z0(read_rewards(reward_annotated), reference_rewards, rao, responses_per_prompt)


def align(
    sft_model: Path,
    reward_annotated: Path,
    method: MethodParameters,
    kl: KLParameters,
    t0_length: int,
    workers: WorkerParameters,
    reference_logprobs: Path | None = None,
    reward_model: Path | None = None,
    start: Path | None = None,
    first_round: Path | None = None,
    reference_rewards: Path | None = None,
    *,
    run: str,
) -> tuple[Path, pd.DataFrame]:
    """Train a policy with one method, on annotated responses or on rollouts that a reward scores.

    Args:
        sft_model: The reference, from which the policy starts, too, unless there is a `start`.
        reward_annotated: Parquet of `AnnotatedGroupTable`, or of `SampledGroupTable` in a round.
        method: The method.
        kl: How evaluations measure the KL divergence from the reference.
        t0_length: Tokens of the prefix t_0.
        workers: How the worker is started.
        reference_logprobs: Parquet of `ReferenceLogProbTable`; None for an objective that needs none.
        reward_model: The reward model; only a method that samples in training needs it.
        start: The checkpoint that the policy starts from; in a round, that of the last one.
        first_round: In a later round with the same reference, the table of the first: its rewards calibrate the
            objective in every round.
        reference_rewards: Parquet of `ReferenceRewardTable`; None for an objective that needs none.
        run: Name of the run's workspace; its last part is the prefix of the run's metrics in MLflow.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    workspace = workers.workspace(run)
    common = {
        "workspace": workspace,
        "model_dir": start or sft_model,
        "groups_path": reward_annotated,
        "reference_path": reference_logprobs,
        "t0_length": t0_length,
        "training": method.training,
        "objective_parameters": method.parameters,
    }
    spec: PPOSpec | AlignmentSpec
    if method.samples_in_training:
        assert method.rollout is not None  # `MethodParameters` has checked it
        if reward_model is None or reference_logprobs is None:
            raise ParameterError(f"objective {method.objective} needs the reward model and the reference log-probs")
        precision = method.training.mixed_precision
        reward = method.rollout.reward.with_defaults(reward_model, sft_model, precision, workspace)
        rollout = method.rollout.model_copy(update={"reward": reward})
        spec, workers = PPOSpec(**common, reward_model_dir=reward_model, rollout=rollout), workers.for_ppo()
    else:
        of_round = {"reference_dir": sft_model if start else None, "calibration_path": first_round}
        seen = {
            "responses_per_prompt": method.responses_per_prompt,
            "pairs": method.pairs,
            "reference_rewards_path": reference_rewards,
        }
        spec = AlignmentSpec(**common, **seen, **of_round, objective=method.objective, kl=kl)
    launch(spec, workers, metric_prefix=f"{workspace.name}.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True)
