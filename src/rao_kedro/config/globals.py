"""The names of `globals.yml`: values that several parameters and the catalog share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rao_kedro.config.specs import ModelParameters
from rao_kedro.config.training import Precision, RolloutParameters, TrainingParameters


class GlobalParameters(BaseModel):
    """What `globals.yml` holds. Each name can be given by `--params`, too, and then counts wherever it is used.

    Attributes:
        data_root: Root of everything that a run writes: a directory, or an address that fsspec opens.
        workspaces: Local root of the workspaces; `workspaces` in `data_root` if not set, which must be local then.
        accelerate: A file of conf/accelerate, without its ending.
        model: Where the base model comes from.
        t0_length: Tokens of the prefix t_0 that all prompts share.
        precision: Compute precision of training, of the reference and of scoring.
        beta: Strength of the KL constraint, reward units per nat, of all methods that have one.
        methods: Names of methods with blanks between: what a run trains and compares.
        responses_per_prompt: Responses of a prompt that every method may see; all where it is null.
        pairs: Of the pairwise methods: one pair of a prompt, or all pairs of differently rated responses.
        reward_model_training: How reward models train.
        alignment_training: How every method trains.
        rollout: What PPO samples from the policy while it trains.
        study_training: How the runs of the likelihood study train.
    """

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    data_root: str = Field(min_length=1)
    workspaces: str | None = Field(None, min_length=1)
    accelerate: str = Field(min_length=1)
    model: ModelParameters
    t0_length: int = Field(ge=1)
    precision: Precision
    beta: float = Field(gt=0)
    methods: str
    responses_per_prompt: int | None = Field(ge=2)
    pairs: Literal["one", "all"]
    reward_model_training: TrainingParameters
    alignment_training: TrainingParameters
    rollout: RolloutParameters
    study_training: TrainingParameters
