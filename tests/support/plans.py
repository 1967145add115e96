"""Parameters, steps and runs that checks of a plan are tried on."""

from kedro.io import DataCatalog, MemoryDataset

from rao_kedro.config.data_engineering import DataParameters
from rao_kedro.config.training import TrainingParameters
from rao_kedro.planning.steps import Run, Step


def data_parameters(prompt=256, response=128, **sampled):
    sampling = {"n": 4, "max_tokens": 48}
    how = {"train_prompts": 8, "generation": {"sampling": sampling}} | sampled
    lengths_ = {"max_prompt_tokens": prompt, "max_response_tokens": response, "evaluation_prompts": 20}
    return DataParameters(source="sampled", sampled=how, **lengths_)


def planned_run(*steps, **parameters):
    """A run of some steps, with parameters by their names."""
    named = {f"params:{name.replace('__', '.')}": MemoryDataset(value) for name, value in parameters.items()}
    return Run(steps, DataCatalog(named))


def planned_step(function, name="node", datasets=None, outputs=(), **given):
    return Step(name, function, given, {argument: argument for argument in given}, datasets or {}, outputs)


def training_parameters(**how):
    return TrainingParameters(learning_rate=1e-5, **how)
