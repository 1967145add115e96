"""Alignment as a pipeline: one reference pass, then one namespace per run of a method."""

from collections.abc import Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.config.run_names import method_of
from rao_kedro.objectives import get_requirements
from rao_kedro.pipelines.alignment.nodes import align, report_feasibility, score_reference
from rao_kedro.pipelines.runs import bind
from rao_kedro.reporting.figures import training_dynamics_of_one


def create_pipeline(objectives: Mapping[str, str]) -> Pipeline:
    """Return the pipeline from `reward_annotated` to `{run}.policy`.

    Args:
        objectives: The objective of each run.
    """
    reference = Node(
        score_reference,
        inputs={
            "sft_model": "sft_model",
            "reward_annotated": "reward_annotated@path",
            "parameters": "params:reference",
            "t0_length": "params:data.t0_length",
            "workers": "params:workers",
        },
        outputs="reference_logprobs@path",
        name="score_reference",
    )
    feasibility = Node(
        report_feasibility,
        inputs=[
            "reward_annotated@path",
            "reference_logprobs@path",
            "params:alignment.rao.parameters",
            "params:alignment.rao.responses_per_prompt",
        ],
        outputs="target_feasibility",
        name="report_feasibility",
    )
    return sum(map(_run, objectives, objectives.values()), start=Pipeline([reference, feasibility], tags="alignment"))


def _run(name: str, objective: str) -> Pipeline:
    shared = ["sft_model", "reward_annotated@path"]
    needed = {}  # last: Kedro matches what a node reads with the names of its function by their order
    requirements = get_requirements(objective)
    if requirements.reference:
        needed["reference_logprobs"] = "reference_logprobs@path"
    if requirements.reads == "rollouts":
        needed["reward_model"] = "reward_model"
    return Pipeline(
        [
            Node(
                bind(align, run=name),
                inputs={
                    "sft_model": "sft_model",
                    "reward_annotated": "reward_annotated@path",
                    "method": "params:method",
                    "kl": "params:kl_to_reference",
                    "t0_length": "params:data.t0_length",
                    "workers": "params:workers",
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
        parameters={"params:method": f"params:alignment.{name}"}
        | {shared: shared for shared in ("params:kl_to_reference", "params:data.t0_length", "params:workers")},
    )
