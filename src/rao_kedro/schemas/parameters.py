"""Parameters of the pipelines; Kedro validates them before any node runs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rao_kedro.schemas.training import TrainingParameters


class Parameters(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelParameters(Parameters):
    """Where the base model comes from.

    Attributes:
        source: gguf_package: a Python package that ships a GGUF file; checkpoint: a directory or a hub name.
        name: The package, the directory or the hub name.
        revision: A hub revision.
    """

    source: Literal["gguf_package", "checkpoint"]
    name: str
    revision: str | None = None


class SampledResponses(Parameters):
    """Responses sampled from the model itself on shipped prompts, rated by the prompts' own requirements.

    Attributes:
        kind: Tells this source from the others.
        train_prompts: Prompts of the training split to sample from.
        test_prompts: Prompts of the held-out split to sample from.
    """

    kind: Literal["sampled"]
    train_prompts: int = Field(ge=1)
    test_prompts: int = Field(ge=1)


class PreferenceFiles(Parameters):
    """Preference data from local files or the hub.

    Attributes:
        kind: Tells this source from the others.
        train: Where training rows come from; see `rao_kedro.preferences.readers.PreferenceSource`.
        test: Where held-out rows come from.
    """

    kind: Literal["preferences"]
    train: dict[str, Any]
    test: dict[str, Any]


class DataParameters(Parameters):
    """The data_engineering pipeline.

    Attributes:
        source: Where prompt groups come from.
        max_prompt_tokens: Longer prompts are quarantined, never cut: that would cut t_0.
        max_response_tokens: Longer responses are quarantined.
        t0_length: Tokens of the prefix t_0 that all prompts share.
        pairing: Which response the pairwise methods take as the rejected one beside the best rated.
        evaluation_prompts: Held-out prompts that the evaluation generates on.
        seed: Seeds the random pairing.
    """

    source: Annotated[SampledResponses | PreferenceFiles, Field(discriminator="kind")]
    max_prompt_tokens: int = Field(ge=1)
    max_response_tokens: int = Field(ge=1)
    t0_length: int = Field(1, ge=1)
    pairing: Literal["best_vs_random", "best_vs_worst"] = "best_vs_random"
    evaluation_prompts: int = Field(ge=1)
    seed: int = 0


class RewardModelingParameters(Parameters):
    """The reward_modeling pipeline.

    Attributes:
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        training: Parameters of the loop.
    """

    centering: float = Field(0.01, ge=0)
    training: TrainingParameters


class MethodParameters(Parameters):
    """One method of the alignment pipeline.

    Attributes:
        objective: A name of `rao_kedro.objectives.objective_names()`.
        parameters: The objective's own parameters; RAO's `log_z0` may be "auto", with `margin` in nats beside it.
        training: Parameters of the loop.
    """

    objective: str
    parameters: dict[str, float | str | bool] = {}
    training: TrainingParameters

    @model_validator(mode="after")
    def _objective_accepts_its_parameters(self) -> "MethodParameters":
        # The objectives themselves know their parameters, so nothing is written twice.
        from rao_kedro.objectives import make_objective

        parameters = dict(self.parameters)
        if parameters.get("log_z0") == "auto":
            parameters["log_z0"] = 0.0
            parameters.pop("margin", None)
        make_objective(self.objective, **parameters)
        return self


class ReferenceParameters(Parameters):
    """The forward pass of the reference model.

    Attributes:
        mixed_precision: Must be the precision of the methods' training, or log-ratios at step 0 are not 0.
        max_tokens_per_batch: Tokens of one packed forward pass.
    """

    mixed_precision: Literal["no", "bf16"] = "bf16"
    max_tokens_per_batch: int = Field(2048, ge=1)
