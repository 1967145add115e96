"""The likelihood study as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.likelihood_study.nodes import plot_runs, summarise, train_runs


def create_pipeline() -> Pipeline:
    """Return the pipeline from `reward_annotated` and `reference_logprobs` to the study's table and figure."""
    return Pipeline(
        [
            Node(
                train_runs,
                inputs={
                    "sft_model": "sft_model",
                    "reward_model": "reward_model",
                    "reward_annotated": "reward_annotated@path",
                    "reference_logprobs": "reference_logprobs@path",
                    "study": "params:likelihood_study",
                    "kl": "params:kl_to_reference",
                    "data": "params:data",
                    "accelerate_config": "accelerate_config",
                    "workspace": "likelihood_study_workspace",
                },
                outputs="likelihood_study_logs",
                name="train_runs",
            ),
            Node(
                summarise,
                inputs=["likelihood_study_logs", "reward_annotated@pandas"],
                outputs="likelihood_study",
                name="summarise_runs",
            ),
            Node(
                plot_runs,
                inputs=["likelihood_study_logs", "params:likelihood_study"],
                outputs="likelihood_dynamics",
                name="plot_runs",
            ),
        ],
        tags="likelihood_study",
    )
