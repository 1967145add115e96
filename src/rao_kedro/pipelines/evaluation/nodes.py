"""Nodes of the evaluation."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.config.generation import GenerationParameters, GenerationSpec
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import PolicyScoringSpec
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.evals.leaderboard import leaderboard
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.evals.policies import join_scores
from rao_kedro.evals.specs import PolicyResponsesSpec
from rao_kedro.reporting.figures import training_dynamics
from rao_kedro.reporting.report import html_report
from rao_kedro.workers import launch

logger = logging.getLogger(__name__)


def generate_responses(
    policy: Path, prompts: Path, generation: GenerationParameters, workers: WorkerParameters, *, run: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Let a policy respond to the held-out prompts.

    Args:
        policy: Its checkpoint.
        prompts: Parquet of `EvaluationPromptTable`.
        generation: How responses are sampled.
        workers: How the worker is started.
        run: Name of the policy.

    Returns:
        Table of `GenerationTable`; and the settings of the generation: model, chat template, sampling, stop tokens,
        versions.
    """
    spec = _generation_spec(policy, prompts, generation, workers, run, AnsweredBenchmarks())
    launch(spec, workers)
    return pd.read_parquet(spec.held_out.output_path), json.loads(spec.settings_path.read_text())


def generate_with_benchmarks(
    policy: Path,
    prompts: Path,
    generation: GenerationParameters,
    workers: WorkerParameters,
    benchmark_files: Path,
    *,
    run: str,
    **benchmarks: Any,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Let a policy respond to the held-out prompts and to the chosen benchmarks, with one start of the engine.

    Args:
        policy: See `generate_responses`.
        prompts: See there.
        generation: See there.
        workers: See there.
        benchmark_files: The files that `collect_benchmark_files` read.
        run: See there.
        **benchmarks: Fields of `AnsweredBenchmarks`.

    Returns:
        What `generate_responses` returns, and tables of `BenchmarkResponseTable`, `DownstreamScoreTable` and
        `DownstreamSampleTable`.
    """
    asked = AnsweredBenchmarks(**benchmarks)
    spec = _generation_spec(policy, prompts, generation, workers, run, asked, benchmark_files)
    launch(spec, workers)
    answers, scores, samples = map(pd.read_parquet, spec.paths)
    settings = json.loads(spec.settings_path.read_text())
    return pd.read_parquet(spec.held_out.output_path), settings, answers, scores, samples


def _generation_spec(
    policy: Path,
    prompts: Path,
    generation: GenerationParameters,
    workers: WorkerParameters,
    run: str,
    benchmarks: AnsweredBenchmarks,
    files: Path | None = None,
) -> PolicyResponsesSpec:
    workspace = _workspace(run, workers)
    held_out = GenerationSpec(
        model_dir=policy,
        prompts_path=prompts,
        output_path=workspace / "generations.parquet",
        **generation.model_dump(),
    )
    return PolicyResponsesSpec(method=run, held_out=held_out, benchmarks=benchmarks, files=files, workspace=workspace)


def score_responses(
    policy: Path,
    sft_model: Path,
    reward_model: Path,
    generations: pd.DataFrame,
    generations_path: Path,
    reward_annotated: Path,
    reference_logprobs: Path,
    reward: RewardParameters,
    mixed_precision: str,
    max_tokens_per_batch: int,
    t0_length: int,
    workers: WorkerParameters,
    *,
    run: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score what a policy wrote, and its log-probs of held-out responses.

    Returns:
        Tables of `ScoredGenerationTable` and `HeldOutLogProbTable`.
    """
    workspace = _workspace(run, workers)
    spec = PolicyScoringSpec(
        workspace=workspace,
        model_dir=policy,
        groups_path=reward_annotated,
        t0_length=t0_length,
        output_path=workspace / "scores.parquet",
        max_tokens_per_batch=max_tokens_per_batch,
        mixed_precision=mixed_precision,
        generations_path=generations_path,
        reference_dir=sft_model,
        reference_path=reference_logprobs,
        reward=reward.with_defaults(reward_model, sft_model, mixed_precision, workspace),
        held_out_path=workspace / "held_out.parquet",
    )
    launch(spec, workers)
    scores, held_out = pd.read_parquet(spec.output_path), pd.read_parquet(spec.held_out_path)
    return join_scores(generations, scores), held_out


def _workspace(run: str, workers: WorkerParameters) -> Path:
    return workers.workspace(f"evaluation/{run}")


def compare_methods(
    seed: int, generation: GenerationParameters, *, policies: Sequence[str], **tables: pd.DataFrame
) -> pd.DataFrame:
    """Return the leaderboard of runs and of what they are compared with.

    The KL divergence is NaN where `generation` does not sample from the policies' own distributions.

    Args:
        seed: Seeds the resampling of the intervals.
        generation: How the responses were sampled.
        policies: Names of the runs, of SFT, and of the base model where it is measured too.
        **tables: `scored_generations_{policy}` and `held_out_logps_{policy}` of each, and `training_log_{run}`.
    """
    generations, held_out = (by_policy(tables, kind, policies) for kind in ("scored_generations", "held_out_logps"))
    trained = [policy for policy in policies if f"training_log_{policy}" in tables]
    board = leaderboard(generations, held_out, seed, by_policy(tables, "training_log", trained))
    if changes := generation.why_not_the_policy():
        logger.warning(
            "kl_to_reference is NaN in the leaderboard: the responses are no samples of the policies' own "
            "distributions (evaluation.generation: %s)",
            changes,
        )
        board["kl_to_reference"] = float("nan")
    return board


def plot_training(**logs: pd.DataFrame) -> go.Figure:
    """Return the training dynamics of runs in one figure, from their training logs."""
    return training_dynamics(logs)


def by_policy(tables: Mapping[str, pd.DataFrame], kind: str, policies: Iterable[str]) -> dict[str, pd.DataFrame]:
    """Return the tables `{kind}_{policy}` by policy."""
    return {policy: tables[f"{kind}_{policy}"] for policy in policies}


def write_report(
    examples: int,
    board: pd.DataFrame,
    scores: go.Figure,
    dynamics: go.Figure,
    calibration: go.Figure,
    reward_report: pd.DataFrame,
    feasibility: pd.DataFrame,
    data_report: pd.DataFrame,
    over_rounds: go.Figure | None = None,
    **generations: pd.DataFrame,
) -> str:
    """Return the HTML report; `generations` are the scored generations of each policy."""
    rounds = {} if over_rounds is None else {"Rounds": over_rounds}
    return html_report(
        board,
        {"Scores": scores, **rounds, "Training": dynamics, "Rewards": calibration},
        generations,
        {"Reward model": reward_report, "Targets of RAO": feasibility, "Data": data_report},
        examples,
    )
