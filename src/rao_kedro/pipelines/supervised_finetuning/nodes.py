"""Nodes of supervised fine-tuning."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.config.training import TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.workers import launch


def train_sft(
    base_model: Path,
    learned: Path,
    training: TrainingParameters,
    t0_length: int,
    workers: WorkerParameters,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune the base model.

    Args:
        base_model: The checkpoint to start from.
        learned: Table of `TokenizedConversationTable`, of which every turn of the assistant is learned, or of
            `TokenizedGroupTable`, of which the chosen responses are.
        training: The training loop.
        t0_length: Tokens of the prefix t_0.
        workers: How the worker is started.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    spec = TrainingSpec(
        workspace=workers.workspace("sft"),
        model_dir=base_model,
        groups_path=learned,
        t0_length=t0_length,
        training=training,
    )
    launch(spec, workers, metric_prefix="sft.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True)
