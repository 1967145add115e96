"""Nodes of supervised fine-tuning."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.config.training import TrainingParameters
from rao_kedro.launch import launch, read_training_log


def train_sft(
    base_model: Path,
    tokenized_groups: Path,
    training: TrainingParameters,
    t0_length: int,
    accelerate_config: Path,
    workspace: Path,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune the base model on the chosen responses.

    Returns:
        The finished checkpoint's directory and the training log.
    """
    spec = TrainingSpec(
        workspace=workspace,
        model_dir=base_model,
        groups_path=tokenized_groups,
        t0_length=t0_length,
        training=training,
    )
    launch("sft", spec, accelerate_config, metric_prefix="sft.")
    return workspace / "model", read_training_log(workspace)
