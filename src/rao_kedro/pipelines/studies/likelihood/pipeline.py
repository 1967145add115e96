"""The likelihood study as a pipeline: one namespace per run within the study's own, then the comparison."""

from collections.abc import Collection, Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.objectives import Requirements
from rao_kedro.pipelines.alignment.pipeline import reference_rewards, run_requirements
from rao_kedro.pipelines.runs import LIKELIHOOD_STUDY, bind, study_namespace
from rao_kedro.pipelines.studies.likelihood.nodes import plot_runs, summarise_runs, train_run
from rao_kedro.pipelines.studies.nodes import collect_logs


def create_pipeline(objectives: Mapping[str, str], estimating: Collection[str] = ()) -> Pipeline:
    """Return the pipeline from `reward_annotated` and `reference_logprobs` to the study's table and figure.

    Args:
        objectives: The objective of each run.
        estimating: Namespaces of the runs that estimate log_z0 from rewards of the reference's responses.
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
    needed = {
        run: run_requirements(objective, study_namespace(LIKELIHOOD_STUDY, run) in estimating)
        for run, objective in objectives.items()
    }
    shared = Pipeline(comparison, tags=LIKELIHOOD_STUDY)
    if any(requirements.reference_rewards for requirements in needed.values()):
        shared += reference_rewards()
    return sum(map(_run, needed, needed.values()), start=shared)


def _run(run: str, requirements: Requirements) -> Pipeline:
    """Return the pipeline of a run. Each reads the reference, whatever its objective: log-ratios are compared."""
    datasets = {
        "sft_model": "sft_model",
        "reward_annotated": "reward_annotated@path",
        "reference_logprobs": "reference_logprobs@path",
        **({"reward_model": "reward_model"} if requirements.reads == "rollouts" else {}),
        **({"reference_rewards": "reference_rewards@path"} if requirements.reference_rewards else {}),
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
