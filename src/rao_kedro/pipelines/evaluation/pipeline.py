"""Evaluation as a pipeline: one namespace per method and one for SFT, then the comparison."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.evaluation.nodes import (
    compare_methods,
    generate_responses,
    plot_training,
    score_responses,
    write_report,
)
from rao_kedro.pipelines.methods import METHODS, POLICIES
from rao_kedro.reporting.figures import scores_by_method


def create_pipeline() -> Pipeline:
    """Return the pipeline from `{method}.policy` to the leaderboard and the report."""
    return sum(map(_policy, POLICIES), start=_comparison())


def _policy(name: str) -> Pipeline:
    shared = [
        "sft_model",
        "reward_model",
        "evaluation_prompts@path",
        "reward_annotated@path",
        "reference_logprobs@path",
        "accelerate_config",
    ]
    inputs = {dataset: dataset for dataset in shared}
    if name == "sft":
        inputs["policy"] = "sft_model"
    return Pipeline(
        [
            Node(
                generate_responses,
                inputs={
                    "policy": "policy",
                    "prompts": "evaluation_prompts@path",
                    "evaluation": "params:evaluation",
                    "accelerate_config": "accelerate_config",
                    "workspace": "evaluation_workspace",
                },
                outputs="generations@pandas",
                name="generate",
            ),
            Node(
                score_responses,
                inputs={
                    "policy": "policy",
                    "sft_model": "sft_model",
                    "reward_model": "reward_model",
                    "generations": "generations@pandas",
                    "generations_path": "generations@path",
                    "reward_annotated": "reward_annotated@path",
                    "reference_logprobs": "reference_logprobs@path",
                    "evaluation": "params:evaluation",
                    "data": "params:data",
                    "accelerate_config": "accelerate_config",
                    "workspace": "evaluation_workspace",
                },
                outputs=["scored_generations", "held_out_logps"],
                name="score",
            ),
        ],
        namespace=name,
        tags=["evaluation", name],
        inputs=inputs,
        outputs={"scored_generations": f"scored_generations_{name}", "held_out_logps": f"held_out_logps_{name}"},
        parameters={"params:evaluation": "params:evaluation", "params:data": "params:data"},
    )


def _comparison() -> Pipeline:
    scored = [f"scored_generations_{name}" for name in POLICIES]
    return Pipeline(
        [
            Node(
                compare_methods,
                inputs=["params:evaluation", *scored, *(f"held_out_logps_{name}" for name in POLICIES)],
                outputs="leaderboard",
                name="compare_methods",
            ),
            Node(scores_by_method, inputs="leaderboard", outputs="scores_by_method", name="plot_scores"),
            Node(
                plot_training,
                inputs=[f"training_log_{name}" for name in METHODS],
                outputs="training_dynamics",
                name="plot_training",
            ),
            Node(
                write_report,
                inputs=[
                    "params:evaluation",
                    "leaderboard",
                    "scores_by_method",
                    "training_dynamics",
                    "reward_report",
                    "data_report",
                    *scored,
                ],
                outputs="report",
                name="write_report",
            ),
        ],
        tags="evaluation",
    )
