"""The project's pipelines, in the order in which a study runs them."""

from kedro.pipeline import Pipeline

from rao_kedro.pipelines import (
    alignment,
    data_engineering,
    evaluation,
    likelihood_study,
    reward_modeling,
    supervised_finetuning,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines by name; `__default__` is the whole chain."""
    pipelines = {
        "data_engineering": data_engineering.create_pipeline(),
        "supervised_finetuning": supervised_finetuning.create_pipeline(),
        "reward_modeling": reward_modeling.create_pipeline(),
        "alignment": alignment.create_pipeline(),
        "evaluation": evaluation.create_pipeline(),
    }
    chain = sum(pipelines.values(), start=Pipeline([]))
    return {"__default__": chain, **pipelines, "likelihood_study": likelihood_study.create_pipeline()}
