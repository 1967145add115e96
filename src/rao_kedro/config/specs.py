"""What nodes tell the workers that train and score models."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import KLParameters, RolloutParameters, TrainingParameters
from rao_kedro.errors import ModelError, TrainingError
from rao_kedro.workers import CPU_MEMORY_SETTINGS, Spec


class ModelImportSpec(Spec):
    """Writes a checkpoint of the base model.

    Attributes:
        model: Where the model comes from.
        output_dir: The checkpoint to write.
    """

    worker = "rao_kedro.models.importing"
    error = ModelError

    model: ModelParameters
    output_dir: Path

    @property
    def title(self) -> str:  # noqa: D102
        return "base model"

    @property
    def spec_path(self) -> Path:  # noqa: D102
        return self.output_dir.with_name("spec.json")


class GroupsSpec(Spec):
    """Common to workers that compute on prompt groups, in the processes of `accelerate launch`.

    Attributes:
        workspace: The worker's own directory, from which a killed run resumes.
        groups_path: Parquet of tokenised groups.
    """

    error = TrainingError
    accelerated = True
    # Checkpoints are local: progress bars of loading them would only fill the log.
    environment: ClassVar = CPU_MEMORY_SETTINGS | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    workspace: Path
    groups_path: Path

    @property
    def spec_path(self) -> Path:  # noqa: D102
        return self.workspace / "spec.json"


class AnnotationSpec(GroupsSpec):
    """Scores every response with a reward.

    Attributes:
        reward: What scores.
        output_path: Parquet to write.
        groups_per_shard: Groups that are scored before their rows are written.
    """

    worker = "rao_kedro.rewards.worker"

    reward: RewardParameters
    output_path: Path
    groups_per_shard: int = Field(1024, ge=1)

    @property
    def outputs(self) -> tuple[Path, ...]:  # noqa: D102
        return (self.output_path,)


class ModelSpec(GroupsSpec):
    """Common to workers that compute with a policy or train a model.

    Attributes:
        model_dir: The checkpoint that the worker starts from.
        t0_length: Tokens of the prefix t_0 that all prompts share.
    """

    model_dir: Path
    t0_length: int = Field(1, ge=1)


class TrainingSpec(ModelSpec):
    """Trains a model; this one by supervised fine-tuning, on tokenised groups or conversations.

    Attributes:
        training: Parameters of the loop.
    """

    worker = "rao_kedro.training.tasks.sft"

    training: TrainingParameters

    @property
    def trained_dir(self) -> Path:
        """The checkpoint of the trained model."""
        return self.workspace / "model"

    @property
    def log_path(self) -> Path:
        """JSON lines: one for each optimizer step, and one with `eval_*` values for each evaluation."""
        return self.workspace / "training_log.jsonl"

    @property
    def outputs(self) -> tuple[Path, ...]:  # noqa: D102
        return self.trained_dir, self.log_path


class RewardTrainingSpec(TrainingSpec):
    """Trains a Bradley-Terry reward model.

    Attributes:
        centering: Weight c of `c (r_w + r_l)^2`, which keeps the additive constant of the rewards near 0.
        margin: The better response is to lead by this much reward per unit of rating between the two.
    """

    worker = "rao_kedro.training.tasks.reward_model"

    centering: float = Field(0.01, ge=0)
    margin: float = Field(0.0, ge=0)


class AlignmentSpec(TrainingSpec):
    """Trains a policy on annotated responses.

    Attributes:
        reference_path: Parquet of reference log-probs; None for an objective that needs none.
        reference_dir: The reference model, if it is not the checkpoint that the policy starts from.
        objective: Name of the objective.
        objective_parameters: Its parameters; RAO's `log_z0` may be "auto", with `margin` in nats beside it, or
            "estimated".
        reference_rewards_path: Parquet of rewards of the reference's responses; None for an objective that needs none.
        responses_per_prompt: Responses of a group that training sees at most; None for all.
        pairs: Whether a pairwise objective takes one pair of a group, or all of differently rated responses.
        kl: How evaluations measure how far the policy is from the reference.
        calibration_path: Parquet of the groups whose training rewards calibrate the objective, if not `groups_path`.
    """

    worker = "rao_kedro.training.tasks.alignment"

    reference_path: Path | None
    reference_dir: Path | None = None
    calibration_path: Path | None = None
    objective: str
    objective_parameters: dict[str, float | str | bool]
    reference_rewards_path: Path | None = None
    responses_per_prompt: int | None = Field(None, ge=2)
    pairs: Literal["one", "all"] = "one"
    kl: KLParameters = KLParameters()

    @property
    def reference_model(self) -> Path:
        """The checkpoint of the reference model."""
        return self.reference_dir or self.model_dir


class PPOSpec(TrainingSpec):
    """Trains a policy on its own rollouts, on the prompts of `groups_path`.

    Attributes:
        reward_model_dir: Where the value network starts.
        reference_path: Parquet of reference log-probs: evaluations compare held-out responses with them.
        objective_parameters: Parameters of `rao_kedro.objectives.ppo.PPO`.
        rollout: What is sampled, and what scores it.
    """

    worker = "rao_kedro.training.tasks.ppo"

    reward_model_dir: Path
    reference_path: Path
    objective_parameters: dict[str, float | str | bool]
    rollout: RolloutParameters


class PPORoundSpec(TrainingSpec):
    """Trains a policy and a value network on the `train` rows of `groups_path`, which the policy has sampled.

    Attributes:
        reference_dir: The reference model, if it is not the checkpoint that the policy starts from.
        reference_path: Parquet of reference log-probs of the same groups; None: those computed here are not compared.
        value_dir: Where the value network starts: the reward model, or what the round before has left in
            `value_network_dir`.
        objective_parameters: Parameters of `rao_kedro.objectives.ppo.PPO`.
        temperature: What the logits were divided by in sampling; divides them in training too.
        value_learning_rate: Peak for the value network; None: that of `training`.
        value_max_grad_norm: The value network's gradient is clipped to this norm, apart from the policy's; None: both
            are clipped together.
    """

    worker = "rao_kedro.training.tasks.ppo_rounds"

    reference_dir: Path | None = None
    reference_path: Path | None = None
    value_dir: Path
    objective_parameters: dict[str, float | str | bool]
    temperature: float = Field(1.0, gt=0)
    value_learning_rate: float | None = Field(None, gt=0)
    value_max_grad_norm: float | None = Field(None, gt=0)

    @property
    def reference_model(self) -> Path:
        """The checkpoint of the reference model."""
        return self.reference_dir or self.model_dir

    @property
    def value_network_dir(self) -> Path:
        """The checkpoint of the trained value network, a sequence classifier as a reward model is."""
        return self.workspace / "value_network"

    @property
    def outputs(self) -> tuple[Path, ...]:  # noqa: D102
        return *super().outputs, self.value_network_dir


class ScoringSpec(ModelSpec):
    """Computes the reference log-probs of groups in a forward pass.

    Attributes:
        output_path: Parquet to write.
        max_tokens_per_batch: Tokens of one packed forward pass.
        mixed_precision: Compute precision; must be the one of training, or log-ratios at step 0 are not 0.
        groups_per_shard: Groups that are scored before their rows are written.
    """

    worker = "rao_kedro.scoring.reference"

    output_path: Path
    max_tokens_per_batch: int = Field(2048, ge=1)
    mixed_precision: str = "bf16"
    groups_per_shard: int = Field(1024, ge=1)

    @property
    def outputs(self) -> tuple[Path, ...]:  # noqa: D102
        return (self.output_path,)


class PolicyScoringSpec(ScoringSpec):
    """Scores what a policy generated, and computes its log-probs of held-out responses.

    Attributes:
        output_path: Parquet to write: scores of the policy's generations, one row per prompt.
        generations_path: Parquet of the policy's generations.
        reference_dir: The reference model.
        reference_path: Parquet of the reference model's log-probs on the groups of `groups_path`.
        reward: Scores the generations.
        held_out_path: Parquet to write: the policy's log-probs on the `test` groups of `groups_path`.
    """

    worker = "rao_kedro.evals.score_policy"

    generations_path: Path
    reference_dir: Path
    reference_path: Path
    reward: RewardParameters
    held_out_path: Path

    @property
    def outputs(self) -> tuple[Path, ...]:  # noqa: D102
        return self.output_path, self.held_out_path
