"""Nodes of alignment."""

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
from rao_kedro.errors import ParameterError
from rao_kedro.files import link_or_copy
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.rewards.annotation import read_rewards
from rao_kedro.rewards.log_z0_report import compare_log_z0
from rao_kedro.rewards.reference_rewards import join_reference_rewards, write_prompts, write_sampled_groups
from rao_kedro.scoring.reference_cache import cached_reference_logprobs
from rao_kedro.workers import launch


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


def sample_reference(
    sft_model: Path, reward_annotated: Path, generation: GenerationParameters, workers: WorkerParameters
) -> Path:
    """Return the table of responses that the SFT model, which is the reference, writes to each training prompt.

    Prompts of validation groups are among them, since evaluations measure the loss on these.
    """
    with workers.reserve("reference_rewards") as workspace:
        write_prompts(reward_annotated, workspace / "prompts.parquet")
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
    reference_rewards: Path | None = None,
    *,
    run: str,
) -> tuple[Path, pd.DataFrame]:
    """Train a policy with one method, on annotated responses or on rollouts that a reward scores.

    Args:
        sft_model: The checkpoint that the policy starts from, which is also the reference.
        reward_annotated: Parquet of `AnnotatedGroupTable`.
        method: The method.
        kl: How evaluations measure the KL divergence from the reference.
        t0_length: Tokens of the prefix t_0.
        workers: How the worker is started.
        reference_logprobs: Parquet of `ReferenceLogProbTable`; None for an objective that needs none.
        reward_model: The reward model; only an on-policy method needs it.
        reference_rewards: Parquet of `ReferenceRewardTable`; None for an objective that needs none.
        run: Name of the run's workspace; its last part is the prefix of the run's metrics in MLflow.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    workspace = workers.workspace(run)
    common = {
        "workspace": workspace,
        "model_dir": sft_model,
        "groups_path": reward_annotated,
        "reference_path": reference_logprobs,
        "t0_length": t0_length,
        "training": method.training,
        "objective_parameters": method.parameters,
    }
    spec: PPOSpec | AlignmentSpec
    if method.requirements.reads == "rollouts":
        assert method.rollout is not None  # `MethodParameters` has checked it
        if reward_model is None or reference_logprobs is None:
            raise ParameterError(f"objective {method.objective} needs the reward model and the reference log-probs")
        precision = method.training.mixed_precision
        reward = method.rollout.reward.with_defaults(reward_model, sft_model, precision, workspace)
        rollout = method.rollout.model_copy(update={"reward": reward})
        spec, workers = PPOSpec(**common, reward_model_dir=reward_model, rollout=rollout), workers.for_ppo()
    else:
        seen = {
            "responses_per_prompt": method.responses_per_prompt,
            "pairs": method.pairs,
            "reference_rewards_path": reference_rewards,
        }
        spec = AlignmentSpec(**common, **seen, objective=method.objective, kl=kl)
    launch(spec, workers, metric_prefix=f"{workspace.name}.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True)
