"""The likelihood study as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.studies.likelihood.nodes import plot_runs, summarise, train_runs


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
                    "runs": "params:likelihood_study.runs",
                    "only": "params:likelihood_study.only",
                    "kl": "params:kl_to_reference",
                    "t0_length": "params:data.t0_length",
                    "workers": "params:workers",
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
                inputs=["likelihood_study_logs", "params:likelihood_study.panels"],
                outputs="likelihood_dynamics",
                name="plot_runs",
            ),
        ],
        tags="likelihood_study",
    )
