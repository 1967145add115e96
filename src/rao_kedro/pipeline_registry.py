"""The project's pipelines, in the order in which a study runs them."""

from kedro.pipeline import Pipeline

from rao_kedro.pipelines import (
    alignment,
    data_engineering,
    evaluation,
    likelihood_study,
    reward_benchmarks,
    reward_model_study,
    reward_modeling,
    supervised_finetuning,
)
from rao_kedro.pipelines.evaluation.pipeline import BENCHMARKS
from rao_kedro.pipelines.methods import DEFAULT_METHODS

BY_METHOD = {"alignment": alignment, "evaluation": evaluation}


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by name; `study` is the whole chain, `__default__` with two methods and no benchmarks.

    `kedro run` runs `study` with the methods of the parameter `methods` and the benchmarks that are chosen (see
    `rao_kedro.session`); sixteen methods at once would be too much to look at in kedro-viz.
    """
    chain = {
        "data_engineering": data_engineering.create_pipeline(),
        "supervised_finetuning": supervised_finetuning.create_pipeline(),
        "reward_modeling": reward_modeling.create_pipeline(),
        "alignment": alignment.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
    }
    default = chain | {name: module.create_pipeline(DEFAULT_METHODS) for name, module in BY_METHOD.items()}
    shown = sum(default.values(), start=Pipeline([]))
    return {
        "__default__": shown - shown.only_nodes_with_tags(BENCHMARKS),
        **chain,
        "likelihood_study": likelihood_study.create_pipeline(),
        "reward_model_study": reward_model_study.create_pipeline(),
        "reward_benchmarks": reward_benchmarks.create_pipeline(),
        "study": sum(chain.values(), start=Pipeline([])),
    }
