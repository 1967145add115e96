"""The reward model study as a pipeline: groups by size and seed, one namespace per run, then the comparison."""

from collections.abc import Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.runs import REWARD_MODEL_STUDY, bind, study_namespace
from rao_kedro.pipelines.studies.nodes import collect_logs
from rao_kedro.pipelines.studies.reward_models.nodes import (
    collect_outcomes,
    measure_implicit,
    measure_trained,
    select_test_groups,
    select_training_groups,
    summarise_runs,
)
from rao_kedro.reporting.figures import reward_model_accuracies

TEST_GROUPS = study_namespace(REWARD_MODEL_STUDY, "test_groups")


def create_pipeline(runs: Mapping[str, tuple[str, str, int]]) -> Pipeline:
    """Return the pipeline from `base_model`, `sft_model` and `tokenized_groups` to the study's table and figure.

    Args:
        runs: Form, size and seed of each run.
    """
    drawn = dict.fromkeys((size, seed) for _, size, seed in runs.values())
    shared = [
        Node(
            select_test_groups,
            inputs=["tokenized_groups@path", "params:workers"],
            outputs=f"{TEST_GROUPS}@path",
            name="select_test_groups",
            namespace=REWARD_MODEL_STUDY,
        ),
        *(_selection(size, seed) for size, seed in drawn),
        Node(
            bind(collect_outcomes, runs=dict(runs)),
            inputs={
                "test_groups": f"{TEST_GROUPS}@path",
                **{run: f"{study_namespace(REWARD_MODEL_STUDY, run)}.outcomes" for run in runs},
            },
            outputs="reward_model_outcomes",
            name="collect_outcomes",
            namespace=REWARD_MODEL_STUDY,
        ),
        Node(
            collect_logs,
            inputs={run: f"{study_namespace(REWARD_MODEL_STUDY, run)}.training_log" for run in runs},
            outputs="reward_model_study_logs",
            name="collect_logs",
            namespace=REWARD_MODEL_STUDY,
        ),
        Node(
            summarise_runs,
            inputs="reward_model_outcomes",
            outputs="reward_model_study",
            name="summarise_runs",
            namespace=REWARD_MODEL_STUDY,
        ),
        Node(
            reward_model_accuracies,
            inputs="reward_model_study",
            outputs="reward_model_accuracies",
            name="plot_runs",
            namespace=REWARD_MODEL_STUDY,
        ),
    ]
    return sum((_run(run, *about) for run, about in runs.items()), start=Pipeline(shared, tags=REWARD_MODEL_STUDY))


def _selection(size: str, seed: int) -> Node:
    groups = _groups(size, seed)
    return Node(
        bind(select_training_groups, seed=seed),
        inputs={
            "tokenized_groups": "tokenized_groups@path",
            "size": _parameter(f"sizes.{size}"),
            "workers": "params:workers",
        },
        outputs=f"{groups}@path",
        name=f"select_{groups.removeprefix(f'{REWARD_MODEL_STUDY}.')}",
        namespace=REWARD_MODEL_STUDY,
    )


def _run(run: str, form: str, size: str, seed: int) -> Pipeline:
    datasets = {
        "start": "base_model" if form == "base" else "sft_model",
        "training_groups": f"{_groups(size, seed)}@path",
        "test_groups": f"{TEST_GROUPS}@path",
    }
    is_implicit = form == "dpo_implicit"
    measure = bind(measure_implicit if is_implicit else measure_trained, run=run, seed=seed)
    own = {name: _parameter(name) for name in (("dpo",) if is_implicit else ("training", "centering"))}
    return Pipeline(
        [
            Node(
                measure,
                inputs={**datasets, **own, "t0_length": "params:data.t0_length", "workers": "params:workers"},
                outputs=[f"{study_namespace(REWARD_MODEL_STUDY, run)}.{name}" for name in ("outcomes", "training_log")],
                name="measure",
                namespace=study_namespace(REWARD_MODEL_STUDY, run),
            )
        ],
        tags=REWARD_MODEL_STUDY,
    )


def _parameter(name: str) -> str:
    return f"params:{REWARD_MODEL_STUDY}.{name}"


def _groups(size: str, seed: int) -> str:
    """Return the dataset of the groups that runs of one size and seed train with."""
    return study_namespace(REWARD_MODEL_STUDY, f"groups_{size}_seed_{seed}")
