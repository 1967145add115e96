"""Reward modelling as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.reward_modeling.nodes import (
    annotate_responses,
    plot_calibration,
    report_rewards,
    train_reward_model,
)
from rao_kedro.reporting.figures import training_dynamics_of_one


def create_pipeline() -> Pipeline:
    """Return the pipeline from `sft_model` to `reward_annotated`."""
    return Pipeline(
        [
            Node(
                train_reward_model,
                inputs={
                    "base_model": "base_model",
                    "sft_model": "sft_model",
                    "tokenized_groups": "tokenized_groups@path",
                    "preference_groups": "preference_groups",
                    "start": "params:reward_modeling.start",
                    "centering": "params:reward_modeling.centering",
                    "margin": "params:reward_modeling.margin",
                    "training": "params:reward_modeling.training",
                    "max_prompt_tokens": "params:data.max_prompt_tokens",
                    "max_response_tokens": "params:data.max_response_tokens",
                    "pairing": "params:data.pairing",
                    "seed": "params:data.seed",
                    "num_proc": "params:data.num_proc",
                    "workers": "params:workers",
                },
                outputs=["reward_model", "reward_training_log"],
                name="train_reward_model",
            ),
            Node(
                annotate_responses,
                inputs={
                    "sft_model": "sft_model",
                    "reward_model": "reward_model",
                    "tokenized_groups": "tokenized_groups@path",
                    "reward": "params:reward_modeling.reward",
                    "mixed_precision": "params:reward_modeling.training.mixed_precision",
                    "normalisation": "params:reward_modeling.normalisation",
                    "clip": "params:reward_modeling.clip",
                    "length_penalty": "params:reward_modeling.length_penalty",
                    "pairing": "params:data.pairing",
                    "seed": "params:data.seed",
                    "workers": "params:workers",
                },
                outputs=["reward_annotated@path", "unscored_responses"],
                name="annotate_responses",
            ),
            Node(
                report_rewards,
                inputs=[
                    "reward_annotated@path",
                    "params:alignment.rao.parameters",
                    "params:alignment.rao.responses_per_prompt",
                ],
                outputs=["reward_report", "reward_target_grid"],
                name="report_rewards",
            ),
            Node(
                training_dynamics_of_one,
                inputs="reward_training_log",
                outputs="reward_training_dynamics",
                name="plot_reward_training",
            ),
            Node(
                plot_calibration,
                inputs=["reward_annotated@path", "reward_target_grid"],
                outputs="reward_calibration",
                name="plot_rewards",
            ),
        ],
        tags="reward_modeling",
    )
