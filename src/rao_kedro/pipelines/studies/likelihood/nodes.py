"""Nodes of the likelihood study."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.training import KLParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.evals.likelihoods import likelihood_summary
from rao_kedro.files import write_text
from rao_kedro.identity import combined_hash, content_hash, file_hash
from rao_kedro.pipelines.alignment.nodes import align
from rao_kedro.reporting.figures import likelihood_dynamics


def train_runs(
    sft_model: Path,
    reward_model: Path,
    reward_annotated: Path,
    reference_logprobs: Path,
    runs: Mapping[str, MethodParameters],
    only: str | None,
    kl: KLParameters,
    t0_length: int,
    workers: WorkerParameters,
) -> pd.DataFrame:
    """Train every run of the study on the same annotated groups; finished ones are not trained again.

    Returns:
        The training logs below each other, with a column `run`.
    """
    logs = []
    with workers.reserve("likelihood_study") as workspace:
        for name in runs if only is None else only.split():
            method = runs[name]
            settings = (method.model_dump_json(), kl.model_dump_json())
            inputs = file_hash(reward_annotated), file_hash(reference_logprobs)
            finished = workspace / f"{name}-{combined_hash(*settings, content_hash(sft_model), *inputs)}.csv"
            if not finished.exists():
                read = method, kl, t0_length, workers, reference_logprobs, reward_model
                _, log = align(sft_model, reward_annotated, *read, run=f"{workspace.name}/{name}")
                write_text(finished, log.to_csv(index=False))
                shutil.rmtree(workspace / name)  # a study is about the logs; its policies would fill the disk
            logs.append(pd.read_csv(finished).assign(run=name))
    return pd.concat(logs, ignore_index=True)


def summarise(logs: pd.DataFrame, reward_annotated: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run: where the likelihoods of chosen and rejected validation responses ended."""
    return likelihood_summary(logs, n=int((reward_annotated["split"] == "validation").sum()))


def plot_runs(logs: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> go.Figure:
    """Return the log-ratios of chosen and rejected responses over the steps, a panel for each comparison."""
    trained = set(logs["run"])
    shown = {title: [run for run in runs if run in trained] for title, runs in panels.items()}
    return likelihood_dynamics(logs, {title: runs for title, runs in shown.items() if runs})
