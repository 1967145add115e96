"""Alignment as a pipeline: one reference pass, then one namespace per method."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.alignment.nodes import align, score_reference
from rao_kedro.pipelines.methods import METHODS
from rao_kedro.reporting.figures import training_dynamics_of_one


def create_pipeline(methods: Sequence[str] = METHODS) -> Pipeline:
    """Return the pipeline from `reward_annotated` to `{method}.policy`."""
    reference = Node(
        score_reference,
        inputs={
            "sft_model": "sft_model",
            "reward_annotated": "reward_annotated@path",
            "parameters": "params:reference",
            "t0_length": "params:data.t0_length",
            "accelerate_config": "accelerate_config",
            "cache": "reference_cache",
        },
        outputs="reference_logprobs@pandas",
        name="score_reference",
    )
    return sum(map(_method, methods), start=Pipeline([reference], tags="alignment"))


def _method(name: str) -> Pipeline:
    shared = ["sft_model", "reward_model", "reward_annotated@path", "reference_logprobs@path", "accelerate_config"]
    return Pipeline(
        [
            Node(
                align,
                inputs={
                    "sft_model": "sft_model",
                    "reward_model": "reward_model",
                    "reward_annotated": "reward_annotated@path",
                    "reference_logprobs": "reference_logprobs@path",
                    "method": "params:method",
                    "kl": "params:kl_to_reference",
                    "t0_length": "params:data.t0_length",
                    "accelerate_config": "accelerate_config",
                    "workspace": "workspace",
                },
                outputs=["policy", "training_log"],
                name="train",
            ),
            Node(training_dynamics_of_one, inputs="training_log", outputs="training_dynamics", name="plot_training"),
        ],
        namespace=name,
        tags=["alignment", name],
        inputs={dataset: dataset for dataset in shared},
        outputs={"training_log": f"training_log_{name}"},
        parameters={"params:method": f"params:alignment.{name}"}
        | {shared: shared for shared in ("params:kl_to_reference", "params:data.t0_length")},
    )
