"""The reward model study as a pipeline: groups by size and seed, one namespace per run, then the comparison."""

from collections.abc import Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.runs import REWARD_MODEL_STUDY, bind, study_namespace
from rao_kedro.pipelines.studies.reward_models.nodes import (
    collect_outcomes,
    measure_implicit,
    measure_trained,
    select_test_groups,
    select_training_groups,
    summarise_reward_models,
)
from rao_kedro.reporting.figures import reward_model_accuracies

TEST_GROUPS = "reward_model_test_groups"


def create_pipeline(runs: Mapping[str, tuple[str, str, int]]) -> Pipeline:
    """Return the pipeline from `base_model`, `sft_model` and `tokenized_groups` to the study's table and figure.

    Args:
        runs: Form, size and seed of each run.
    """
    drawn = dict.fromkeys((size, seed) for _, size, seed in runs.values())
    selection = [
        Node(
            bind(select_training_groups, seed=seed),
            inputs={"tokenized_groups": "tokenized_groups@pandas", "size": _parameter(f"sizes.{size}")},
            outputs=f"{_groups(size, seed)}@pandas",
            name=f"select_{_groups(size, seed)}",
        )
        for size, seed in drawn
    ]
    outcomes = {_outcomes(run): _outcomes(run) for run in runs}
    comparison = [
        Node(
            select_test_groups,
            inputs="tokenized_groups@pandas",
            outputs=f"{TEST_GROUPS}@pandas",
            name="select_reward_model_test_groups",
        ),
        Node(
            bind(collect_outcomes, runs=dict(runs)),
            inputs={"test_groups": f"{TEST_GROUPS}@pandas", **outcomes},
            outputs="reward_model_outcomes",
            name="collect_reward_model_outcomes",
        ),
        Node(
            summarise_reward_models,
            inputs="reward_model_outcomes",
            outputs="reward_model_study",
            name="summarise_reward_models",
        ),
        Node(
            reward_model_accuracies,
            inputs="reward_model_study",
            outputs="reward_model_accuracies",
            name="plot_reward_models",
        ),
    ]
    shared = Pipeline([*selection, *comparison], tags=REWARD_MODEL_STUDY)
    return sum((_run(run, *about) for run, about in runs.items()), start=shared)


def _run(run: str, form: str, size: str, seed: int) -> Pipeline:
    datasets = {
        "start": "base_model" if form == "base" else "sft_model",
        "training_groups": f"{_groups(size, seed)}@path",
        "test_groups": f"{TEST_GROUPS}@path",
    }
    is_implicit = form == "dpo_implicit"
    measure = bind(measure_implicit if is_implicit else measure_trained, run=run, seed=seed)
    own = {name: _parameter(name) for name in (("dpo",) if is_implicit else ("training", "centering"))}
    parameters = {**own, "t0_length": "params:data.t0_length", "workers": "params:workers"}
    return Pipeline(
        [
            Node(
                measure,
                inputs={**datasets, **parameters},
                outputs=["outcomes", "training_log"],
                name="measure",
            )
        ],
        namespace=study_namespace(REWARD_MODEL_STUDY, run),
        tags=REWARD_MODEL_STUDY,
        inputs={dataset: dataset for dataset in datasets.values()},
        outputs={"outcomes": _outcomes(run), "training_log": f"reward_model_study_training_log_{_file(run)}"},
        parameters={name: name for name in parameters.values()},
    )


def _parameter(name: str) -> str:
    return f"params:{REWARD_MODEL_STUDY}.{name}"


def _groups(size: str, seed: int) -> str:
    return f"reward_model_groups_{_file(size)}_seed_{seed}"


def _outcomes(run: str) -> str:
    return f"reward_model_outcomes_{_file(run)}"


def _file(name: str) -> str:
    return name.replace(".", "_")
