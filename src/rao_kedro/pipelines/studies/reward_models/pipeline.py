"""The reward model study as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.studies.reward_models.nodes import measure_runs, summarise
from rao_kedro.reporting.figures import reward_model_accuracies


def create_pipeline() -> Pipeline:
    """Return the pipeline from `base_model`, `sft_model` and `tokenized_groups` to the study's table and figure."""
    return Pipeline(
        [
            Node(
                measure_runs,
                inputs={
                    "base_model": "base_model",
                    "sft_model": "sft_model",
                    "tokenized_groups": "tokenized_groups@pandas",
                    "study": "params:reward_model_study",
                    "t0_length": "params:data.t0_length",
                    "workers": "params:workers",
                },
                outputs="reward_model_outcomes",
                name="measure_reward_models",
            ),
            Node(
                summarise, inputs="reward_model_outcomes", outputs="reward_model_study", name="summarise_reward_models"
            ),
            Node(
                reward_model_accuracies,
                inputs="reward_model_study",
                outputs="reward_model_accuracies",
                name="plot_reward_models",
            ),
        ],
        tags="reward_model_study",
    )
