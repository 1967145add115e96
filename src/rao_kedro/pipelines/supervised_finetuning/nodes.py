"""Nodes of supervised fine-tuning."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.config.training import TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.workers import launch


def train_sft(
    base_model: Path,
    tokenized_groups: Path,
    training: TrainingParameters,
    t0_length: int,
    workers: WorkerParameters,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune the base model on the chosen responses.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    spec = TrainingSpec(
        workspace=workers.workspace("sft"),
        model_dir=base_model,
        groups_path=tokenized_groups,
        t0_length=t0_length,
        training=training,
    )
    launch(spec, workers, metric_prefix="sft.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True)
