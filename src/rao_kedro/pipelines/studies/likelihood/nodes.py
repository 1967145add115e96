"""Nodes of the likelihood study."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.training import KLParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.table_files import count_values
from rao_kedro.evals.likelihoods import likelihood_summary
from rao_kedro.pipelines.alignment.nodes import align
from rao_kedro.pipelines.runs import LIKELIHOOD_STUDY
from rao_kedro.reporting.figures import likelihood_dynamics


def train_run(
    sft_model: Path,
    reward_annotated: Path,
    reference_logprobs: Path,
    method: MethodParameters,
    kl: KLParameters,
    t0_length: int,
    workers: WorkerParameters,
    reward_model: Path | None = None,
    reference_rewards: Path | None = None,
    *,
    run: str,
) -> Iterator[tuple[pd.DataFrame]]:
    """Train a run of the study, and yield its training log; see `align`.

    The study is about the logs, and its policies would fill the disk: once the log is saved, the policy is deleted.
    """
    workspace = f"{LIKELIHOOD_STUDY}/{run}"
    _, log = align(
        sft_model,
        reward_annotated,
        method,
        kl,
        t0_length,
        workers,
        reference_logprobs,
        reward_model,
        reference_rewards=reference_rewards,
        run=workspace,
    )
    yield (log,)
    shutil.rmtree(workers.workspace(workspace))


def summarise_runs(logs: pd.DataFrame, reward_annotated: Path) -> pd.DataFrame:
    """Return a row for each run: the last likelihoods of chosen and rejected validation responses."""
    return likelihood_summary(logs, n=count_values(reward_annotated, ["split"])[("validation",)])


def plot_runs(logs: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> go.Figure:
    """Return the log-ratios of chosen and rejected responses over the steps, a panel for each comparison."""
    trained = set(logs["run"])
    shown = {title: [run for run in runs if run in trained] for title, runs in panels.items()}
    return likelihood_dynamics(logs, {title: runs for title, runs in shown.items() if runs})
