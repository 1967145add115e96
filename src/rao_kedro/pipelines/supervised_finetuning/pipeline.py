"""Supervised fine-tuning as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.supervised_finetuning.nodes import train_sft
from rao_kedro.reporting.figures import training_dynamics_of_one


def create_pipeline(conversations: bool = False) -> Pipeline:
    """Return the pipeline from `base_model` to `sft_model`.

    Args:
        conversations: Whether conversations are learned, and not the chosen responses of groups.
    """
    return Pipeline(
        [
            Node(
                train_sft,
                inputs={
                    "base_model": "base_model",
                    "learned": "tokenized_conversations" if conversations else "tokenized_groups@path",
                    "training": "params:supervised_finetuning.training",
                    "t0_length": "params:data.t0_length",
                    "workers": "params:workers",
                },
                outputs=["sft_model", "sft_training_log"],
                name="train_sft",
            ),
            Node(
                training_dynamics_of_one,
                inputs="sft_training_log",
                outputs="sft_training_dynamics",
                name="plot_sft_training",
            ),
        ],
        tags="supervised_finetuning",
    )
