"""The names of `globals.yml`: values that several parameters and the catalog share."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from rao_kedro.config.alignment import Seeds
from rao_kedro.config.base import Names, Parameters
from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.planning import PlanningParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.training import Precision, RolloutParameters, TrainingParameters


class LengthParameters(Parameters):
    """Lengths in tokens. Parameters that bound the same thing refer to them.

    Attributes:
        max_prompt_tokens: Of a prompt; longer ones are quarantined.
        max_response_tokens: Of a response in the data; longer ones are dropped.
        max_new_tokens: Of a response that a model writes, in sampled data, rollouts and the evaluation.
        max_model_len: Of a prompt and its response together, in the engine that generates.
        max_tokens_per_batch: Of a packed forward pass in training.
        max_tokens_per_scoring_batch: Of a packed forward pass without gradients.
    """

    max_prompt_tokens: int = Field(ge=1)
    max_response_tokens: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
    max_model_len: int = Field(ge=2)
    max_tokens_per_batch: int = Field(ge=1)
    max_tokens_per_scoring_batch: int = Field(ge=1)


class TrainingDifferences(TrainingParameters):
    """Values that differ from `training` for one kind of model; a value that is not set is that of `training`."""

    learning_rate: float | None = Field(None, gt=0)  # type: ignore[assignment]


class GlobalParameters(Parameters):
    """What `globals.yml` holds. `--params` can give each name, too; every place that refers to it follows.

    Attributes:
        data_root: Root of everything that a run writes: a directory, or an address that fsspec opens.
        workspaces: Local root of the workspaces; `workspaces` in `data_root` if not set, which must be local then.
        accelerate: A file of conf/accelerate, without its ending.
        ppo_accelerate: The same for PPO, which samples from its policy and so cannot train a sharded one.
        model: The base model, or the name of one of `models`.
        models: Blocks of globals by the name of a model; that of the picked model is merged into the globals.
        t0_length: Tokens of the prefix t_0 that all prompts share.
        precision: Compute precision of training, of the reference and of scoring.
        lengths: Lengths in tokens.
        methods: Names of methods: what a run trains and compares.
        beta: Strength of the KL constraint, reward units per nat, of all methods that have one.
        responses_per_prompt: Responses of a prompt that every method may see; all where it is null.
        pairs: Of the pairwise methods: one pair of a prompt, or all pairs of differently rated responses.
        seeds: Every method is trained once with each; null trains once, with `training.seed`.
        training: How every model is trained.
        sft_training: What differs from `training` in supervised fine-tuning.
        reward_model_training: What differs from `training` for reward models.
        alignment_training: What differs from `training` for the methods.
        study_training: What differs from `training` for the runs of the likelihood study.
        rollout: What PPO samples from the policy while it trains.
        rounds: On-policy rounds of every method.
        planning: What a plan takes for what nobody has counted or measured here yet.
    """

    model_config = ConfigDict(extra="allow")  # globals of a user's own; those that nothing uses are refused elsewhere

    data_root: str = Field(min_length=1)
    workspaces: str | None = Field(None, min_length=1)
    accelerate: str = Field(min_length=1)
    ppo_accelerate: str = Field(min_length=1)
    model: ModelParameters
    models: dict[str, dict[str, Any]] = {}
    t0_length: int = Field(ge=1)
    precision: Precision
    lengths: LengthParameters
    methods: Names
    beta: float = Field(gt=0)
    responses_per_prompt: int | None = Field(ge=2)
    pairs: Literal["one", "all"]
    seeds: Seeds | None = None
    training: TrainingParameters
    sft_training: TrainingDifferences
    reward_model_training: TrainingDifferences
    alignment_training: TrainingDifferences
    study_training: TrainingDifferences
    rollout: RolloutParameters
    rounds: RoundsParameters
    planning: PlanningParameters = PlanningParameters()
