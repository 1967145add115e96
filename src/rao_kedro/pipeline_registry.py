"""The project's pipelines, in the order in which a study runs them."""

from kedro.pipeline import Pipeline

from rao_kedro.pipelines import (
    alignment,
    data_engineering,
    evaluation,
    publish,
    reward_benchmarks,
    reward_modeling,
    supervised_finetuning,
)
from rao_kedro.pipelines.runs import DEFAULT_METHODS, METHODS, Runs
from rao_kedro.pipelines.studies import likelihood, reward_models


def register_pipelines() -> dict[str, Pipeline]:
    """Return the pipelines with all methods; `__default__` is the study with two, since all are hard to look at.

    Once parameters are loaded, those of the runs that they choose take their place; see `rao_kedro.framework.context`.
    """
    default = build_pipelines(Runs({method: method for method in DEFAULT_METHODS}))
    every = build_pipelines(Runs({method: method for method in METHODS}, benchmarks=True, conversations=True))
    return every | {"__default__": default["__default__"]}


def build_pipelines(runs: Runs) -> dict[str, Pipeline]:
    """Return the pipelines by name, for exactly these runs; `study` and `__default__` are the whole chain.

    Without fine-tuning, the base model takes the place of the SFT model in every pipeline.
    """
    chain = {
        "data_engineering": data_engineering.create_pipeline(runs.conversations),
        "supervised_finetuning": supervised_finetuning.create_pipeline(runs.conversations)
        if runs.finetunes
        else Pipeline([]),
        "reward_modeling": reward_modeling.create_pipeline(),
        "alignment": alignment.create_pipeline(runs.alignment, runs.estimating, runs.rounds),
        "evaluation": evaluation.create_pipeline(runs.measured(), runs.benchmarks, runs.base_model, runs.last_rounds()),
    }
    study = sum(chain.values(), start=Pipeline([]))
    pipelines = {
        "__default__": study,
        **chain,
        "publish": publish.create_pipeline(runs.alignment, runs.benchmarks),
        "likelihood_study": likelihood.create_pipeline(runs.likelihood_study, runs.estimating),
        "reward_model_study": reward_models.create_pipeline(runs.reward_model_study),
        "reward_benchmarks": reward_benchmarks.create_pipeline(),
        "study": study,
    }
    return pipelines if runs.finetunes else {name: _start_from_base(of) for name, of in pipelines.items()}


def _start_from_base(pipeline: Pipeline) -> Pipeline:
    reads = "sft_model" in pipeline.inputs()
    return Pipeline(pipeline, inputs={"sft_model": "base_model"}) if reads else pipeline
