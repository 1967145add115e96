"""Nodes of alignment."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rao_kedro.config.alignment import MethodParameters, ReferenceParameters
from rao_kedro.config.specs import AlignmentSpec, PPOSpec
from rao_kedro.config.training import KLParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.errors import ParameterError
from rao_kedro.files import link_or_copy
from rao_kedro.rewards.feasibility import target_feasibility
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
    reward_annotated: Path, reference_logprobs: Path, rao: Mapping[str, Any], responses_per_prompt: int | None
) -> pd.DataFrame:
    """Return the share of prompts whose targets cannot be met together, for the beta and log_z0 of RAO's run.

    Logs a warning if there are such prompts in the training split.
    """
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


def align(
    sft_model: Path,
    reward_annotated: Path,
    method: MethodParameters,
    kl: KLParameters,
    t0_length: int,
    workers: WorkerParameters,
    reference_logprobs: Path | None = None,
    reward_model: Path | None = None,
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
        seen = {"responses_per_prompt": method.responses_per_prompt, "pairs": method.pairs}
        spec = AlignmentSpec(**common, **seen, objective=method.objective, kl=kl)
    launch(spec, workers, metric_prefix=f"{workspace.name}.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True)
