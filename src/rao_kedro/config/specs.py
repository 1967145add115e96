"""What a node tells a worker: one JSON file per run of a worker."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import KLParameters, RolloutParameters, TrainingParameters


class ModelParameters(BaseModel):
    """Where the base model comes from.

    Attributes:
        source: gguf_package: a Python package that ships a GGUF file; checkpoint: a directory or a hub
            name; tiny_random: a tiny Llama with random weights, for tests.
        name: The package, the directory or the hub name.
        revision: A hub revision.
        chat_template: A Jinja file that takes the place of the model's own chat template.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["gguf_package", "checkpoint", "tiny_random"]
    name: str
    revision: str | None = None
    chat_template: Path | None = None


class ModelImportSpec(BaseModel):
    """Making a checkpoint of the base model.

    Attributes:
        model: Where it comes from.
        output_dir: The checkpoint to write.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelParameters
    output_dir: Path


class WorkerSpec(BaseModel):
    """Common to all workers.

    Attributes:
        workspace: The worker's own directory; it resumes from what is there.
        groups_path: Parquet of tokenised groups.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    workspace: Path
    groups_path: Path


class AnnotationSpec(WorkerSpec):
    """Rewards of every response.

    Attributes:
        reward: What scores.
        output_path: Parquet to write.
        groups_per_shard: Groups that are scored before their rows are written.
    """

    reward: RewardParameters
    output_path: Path
    groups_per_shard: int = Field(1024, ge=1)


class ModelSpec(WorkerSpec):
    """Common to workers that compute with a policy or train a model.

    Attributes:
        model_dir: The checkpoint it starts from.
        t0_length: Tokens of the prefix t_0 that all prompts share.
    """

    model_dir: Path
    t0_length: int = Field(1, ge=1)


class TrainingSpec(ModelSpec):
    """Supervised fine-tuning.

    Attributes:
        training: Parameters of the loop.
    """

    training: TrainingParameters


class RewardTrainingSpec(TrainingSpec):
    """A Bradley-Terry reward model.

    Attributes:
        centering: Weight c of `c (r_w + r_l)^2`, which keeps the additive constant of the rewards near 0.
        margin: The better response is to lead by this much reward per unit of rating between the two.
    """

    centering: float = Field(0.01, ge=0)
    margin: float = Field(0.0, ge=0)


class AlignmentSpec(TrainingSpec):
    """A policy.

    Attributes:
        reference_path: Parquet of reference log-probs; None for an objective that needs none.
        objective: Name of the objective.
        objective_parameters: Its parameters; RAO's `log_z0` may be "auto", with `margin` in nats beside it.
        responses_per_prompt: Responses of a group that training sees at most; None for all.
        pairs: Whether a pairwise objective takes one pair of a group, or all of differently rated responses.
        kl: How evaluations measure how far the policy is from the reference.
    """

    reference_path: Path | None
    objective: str
    objective_parameters: dict[str, float | str | bool]
    responses_per_prompt: int | None = Field(None, ge=2)
    pairs: Literal["one", "all"] = "one"
    kl: KLParameters = KLParameters()


class PPOSpec(TrainingSpec):
    """A policy that learns from its own rollouts on the prompts of `groups_path`.

    Attributes:
        reward_model_dir: Where the value network starts.
        reference_path: Parquet of reference log-probs: evaluations compare held-out responses with them.
        objective_parameters: Parameters of `rao_kedro.objectives.ppo.PPO`.
        rollout: What is sampled, and what scores it.
    """

    reward_model_dir: Path
    reference_path: Path
    objective_parameters: dict[str, float | str | bool]
    rollout: RolloutParameters


class ScoringSpec(ModelSpec):
    """A forward pass over groups: log-probs.

    Attributes:
        output_path: Parquet to write.
        max_tokens_per_batch: Tokens of one packed forward pass.
        mixed_precision: Compute precision; must be the one of training, or log-ratios at step 0 are not 0.
        groups_per_shard: Groups that are scored before their rows are written.
    """

    output_path: Path
    max_tokens_per_batch: int = Field(2048, ge=1)
    mixed_precision: str = "bf16"
    groups_per_shard: int = Field(1024, ge=1)


class PolicyScoringSpec(ScoringSpec):
    """Everything that the evaluation asks of models about one policy.

    Attributes:
        output_path: Parquet of its generations' scores, one row per prompt.
        generations_path: Parquet of its generations.
        reference_dir: The reference model.
        reference_path: Parquet of its log-probs on the groups of `groups_path`.
        reward: Scores the generations.
        held_out_path: Parquet to write: the policy's log-probs on the `test` groups of `groups_path`.
    """

    generations_path: Path
    reference_dir: Path
    reference_path: Path
    reward: RewardParameters
    held_out_path: Path
