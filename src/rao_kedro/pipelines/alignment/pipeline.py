"""Alignment as a pipeline: one reference pass, then one namespace per run of a method."""

from collections.abc import Collection, Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.config.run_names import method_of
from rao_kedro.objectives import Requirements, get_requirements
from rao_kedro.pipelines.alignment.nodes import (
    align,
    report_feasibility,
    report_log_z0,
    reward_reference,
    sample_reference,
)
from rao_kedro.pipelines.alignment.rounds import OF_TRAINING, in_rounds, reference_node
from rao_kedro.pipelines.runs import Rounds, bind
from rao_kedro.reporting.figures import training_dynamics_of_one


def create_pipeline(
    objectives: Mapping[str, str], estimating: Collection[str] = (), rounds: Mapping[str, Rounds] | None = None
) -> Pipeline:
    """Return the pipeline from `reward_annotated` to `{run}.policy`.

    Args:
        objectives: The objective of each run.
        estimating: Names of the runs that estimate log_z0 from rewards of the reference's responses.
        rounds: The rounds of each run that trains in on-policy rounds.
    """
    rounds = rounds or {}
    needed = {name: run_requirements(objective, name in estimating) for name, objective in objectives.items()}
    shared = [reference_node("sft_model", "reward_annotated@path", "reference_logprobs@path")]
    of_rao = ["params:alignment.rao.parameters", "params:alignment.rao.responses_per_prompt"]
    estimates, samples = "rao" in estimating, any(of.reference_rewards for of in needed.values())
    if samples or not estimates:  # else RAO is not among the runs, and nobody knows its log_z0
        estimated = ["log_z0_report"] if estimates else []
        shared.append(
            Node(
                report_feasibility,
                inputs=["reward_annotated@path", "reference_logprobs@path", *of_rao, *estimated],
                outputs="target_feasibility",
                name="report_feasibility",
            )
        )
    if samples:
        shared += reference_rewards().nodes
        shared.append(
            Node(
                report_log_z0,
                inputs=["reference_rewards@path", "reward_annotated@path", *of_rao],
                outputs="log_z0_report",
                name="report_log_z0",
            )
        )
    runs = [
        in_rounds(name, requirements, rounds[name]) if name in rounds else _run(name, requirements)
        for name, requirements in needed.items()
    ]
    return sum(runs, start=Pipeline(shared, tags="alignment"))


def run_requirements(objective: str, estimates_log_z0: bool) -> Requirements:
    """Return what a run of an objective needs."""
    return get_requirements(objective, {"log_z0": "estimated"} if estimates_log_z0 else None)


def reference_rewards() -> Pipeline:
    """Return the pipeline from `reward_annotated` to `reference_rewards`, which all methods share."""
    return Pipeline(
        [
            Node(
                sample_reference,
                inputs={
                    "sft_model": "sft_model",
                    "reward_annotated": "reward_annotated@path",
                    "generation": "params:reference_rewards.generation",
                    "workers": "params:workers",
                },
                outputs="reference_generations@path",
                name="sample_reference",
            ),
            Node(
                reward_reference,
                inputs={
                    "sft_model": "sft_model",
                    "reward_model": "reward_model",
                    "reward_annotated": "reward_annotated@path",
                    "reference_generations": "reference_generations@path",
                    "reward": "params:reward_modeling.reward",
                    "mixed_precision": "params:reward_modeling.training.mixed_precision",
                    "workers": "params:workers",
                },
                outputs=["reference_rewards@path", "unscored_reference_responses"],
                name="reward_reference",
            ),
        ],
        tags="alignment",
    )


def _run(name: str, requirements: Requirements) -> Pipeline:
    shared = ["sft_model", "reward_annotated@path"]
    needed = {}  # last: Kedro matches what a node reads with the names of its function by their order
    if requirements.reference:
        needed["reference_logprobs"] = "reference_logprobs@path"
    if requirements.reads == "rollouts":
        needed["reward_model"] = "reward_model"
    if requirements.reference_rewards:
        needed["reference_rewards"] = "reference_rewards@path"
    return Pipeline(
        [
            Node(
                bind(align, run=name),
                inputs={
                    "sft_model": "sft_model",
                    "reward_annotated": "reward_annotated@path",
                    "method": "params:method",
                    **OF_TRAINING,
                    **needed,
                },
                outputs=["policy", "training_log"],
                name="train",
            ),
            Node(training_dynamics_of_one, inputs="training_log", outputs="training_dynamics", name="plot_training"),
        ],
        namespace=name,
        tags=["alignment", name, method_of(name)],
        inputs={dataset: dataset for dataset in (*shared, *needed.values())},
        outputs={"training_log": f"training_log_{name}"},
        parameters={"params:method": f"params:alignment.{name}"} | {of: of for of in OF_TRAINING.values()},
    )
