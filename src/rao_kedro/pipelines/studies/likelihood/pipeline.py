"""The likelihood study as a pipeline: one namespace per run within the study's own, then the comparison."""

from collections.abc import Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.objectives import get_requirements
from rao_kedro.pipelines.runs import LIKELIHOOD_STUDY, bind, study_namespace
from rao_kedro.pipelines.studies.likelihood.nodes import plot_runs, summarise_runs, train_run
from rao_kedro.pipelines.studies.nodes import collect_logs


def create_pipeline(objectives: Mapping[str, str]) -> Pipeline:
    """Return the pipeline from `reward_annotated` and `reference_logprobs` to the study's table and figure.

    Args:
        objectives: The objective of each run.
    """
    comparison = [
        Node(
            collect_logs,
            inputs={run: f"{study_namespace(LIKELIHOOD_STUDY, run)}.training_log" for run in objectives},
            outputs="likelihood_study_logs",
            name="collect_logs",
            namespace=LIKELIHOOD_STUDY,
        ),
        Node(
            summarise_runs,
            inputs=["likelihood_study_logs", "reward_annotated@path"],
            outputs="likelihood_study",
            name="summarise_runs",
            namespace=LIKELIHOOD_STUDY,
        ),
        Node(
            plot_runs,
            inputs=["likelihood_study_logs", "params:likelihood_study.panels"],
            outputs="likelihood_dynamics",
            name="plot_runs",
            namespace=LIKELIHOOD_STUDY,
        ),
    ]
    runs = (_run(run, objective) for run, objective in objectives.items())
    return sum(runs, start=Pipeline(comparison, tags=LIKELIHOOD_STUDY))


def _run(run: str, objective: str) -> Pipeline:
    """Return the pipeline of a run. Each reads the reference, whatever its objective: log-ratios are compared."""
    datasets = {
        "sft_model": "sft_model",
        "reward_annotated": "reward_annotated@path",
        "reference_logprobs": "reference_logprobs@path",
        **({"reward_model": "reward_model"} if get_requirements(objective).reads == "rollouts" else {}),
    }
    shared = {"kl": "params:kl_to_reference", "t0_length": "params:data.t0_length", "workers": "params:workers"}
    return Pipeline(
        [
            Node(
                bind(train_run, run=run),
                inputs={**datasets, "method": "params:method", **shared},
                outputs=["training_log"],
                name="train",
            )
        ],
        namespace=study_namespace(LIKELIHOOD_STUDY, run),
        tags=LIKELIHOOD_STUDY,
        inputs={dataset: dataset for dataset in datasets.values()},
        parameters={"params:method": f"params:likelihood_study.runs.{run}", **{name: name for name in shared.values()}},
    )
