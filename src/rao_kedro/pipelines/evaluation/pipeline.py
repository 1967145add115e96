"""Evaluation as a pipeline: one namespace per method and one for SFT, then the comparison."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.pipelines.evaluation.nodes import (
    compare_methods,
    generate_responses,
    plot_training,
    score_responses,
    write_report,
)
from rao_kedro.pipelines.methods import METHODS
from rao_kedro.reporting.figures import scores_by_method


def create_pipeline(methods: Sequence[str] = METHODS) -> Pipeline:
    """Return the pipeline from `{method}.policy` to the leaderboard and the report."""
    return sum(map(_policy, [BASELINE, *methods]), start=_comparison(methods))


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
    if name == BASELINE:
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


def _comparison(methods: Sequence[str]) -> Pipeline:
    policies = [BASELINE, *methods]
    scored = {name: name for name in (f"scored_generations_{policy}" for policy in policies)}
    held_out = {name: name for name in (f"held_out_logps_{policy}" for policy in policies)}
    logs = {name: name for name in (f"training_log_{method}" for method in methods)}
    return Pipeline(
        [
            Node(
                compare_methods,
                inputs={"evaluation": "params:evaluation", **scored, **held_out},
                outputs="leaderboard",
                name="compare_methods",
            ),
            Node(scores_by_method, inputs="leaderboard", outputs="scores_by_method", name="plot_scores"),
            Node(plot_training, inputs=logs, outputs="training_dynamics", name="plot_training"),
            Node(
                write_report,
                inputs={
                    "evaluation": "params:evaluation",
                    "board": "leaderboard",
                    "scores": "scores_by_method",
                    "dynamics": "training_dynamics",
                    "calibration": "reward_calibration",
                    "reward_report": "reward_report",
                    "data_report": "data_report",
                    **scored,
                },
                outputs="report",
                name="write_report",
            ),
        ],
        tags="evaluation",
    )
