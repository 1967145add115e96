"""Parameters of the training loop, the same for every task."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rao_kedro.config.rewards import RewardParameters

# Per parameter of a model that is trained, in fp32.
WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES = 4, 4, 8

# On a command line and in YAML, an unquoted `no` is false.
Precision = Annotated[Literal["no", "bf16"], BeforeValidator(lambda value: "no" if value is False else value)]


class RolloutParameters(BaseModel):
    """What an on-policy method samples, and how often it learns from it.

    Sampling knows a temperature and nothing else: PPO's ratios are those of the whole distribution, and with top_p, a
    repetition penalty or the like it would learn from responses of another one.

    Attributes:
        samples_per_prompt: Responses to each prompt of a rollout.
        max_new_tokens: Tokens of a response at most.
        temperature: Divides the logits, in the rollout and in the update alike.
        ppo_epochs: Passes over each rollout, an optimizer step each.
        reward: What scores the responses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples_per_prompt: int = Field(1, ge=1)
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(1.0, gt=0)
    ppo_epochs: int = Field(4, ge=1)
    reward: RewardParameters = RewardParameters()


class LoRAParameters(BaseModel):
    """Low-rank adapters in place of full fine-tuning; what is published is merged into plain weights.

    Attributes:
        rank: Of the update of a weight matrix.
        alpha: The update is multiplied by alpha / rank.
        target_modules: Names of the linear layers that get one, or all but the output projection.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class KLParameters(BaseModel):
    """How evaluations of an offline method measure KL(policy || reference): on responses of the policy.

    Attributes:
        prompts: Held-out prompts to sample one response each for; 0 does not measure.
        max_new_tokens: Tokens of a response at most; the divergence is that of responses cut there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: int = Field(64, ge=0)
    max_new_tokens: int = Field(256, ge=1)


class TrainingParameters(BaseModel):
    """What the loop needs to know; see `rao_kedro.training.loop`.

    Attributes:
        epochs: Passes over the training groups.
        learning_rate: Peak of the schedule.
        batch_size: Prompt groups per optimizer step, over all processes.
        max_tokens_per_batch: Tokens of one packed forward pass; bounds memory.
        lora: Trains adapters instead of all weights; takes a learning rate about ten times higher.
        optimizer: AdamW, or bitsandbytes' with 8-bit states, on CUDA only.
        activation_checkpointing: Computes each layer again in the backward pass: less memory, a third more compute.
        compile: Compiles each decoder layer (`torch.compile`): less memory and a little faster, after a minute or two.
        lr_scheduler: How the learning rate goes on after the warm-up; see `rao_kedro.training.schedule`.
        warmup_ratio: Share of the steps over which the learning rate rises; that of the first step is not 0.
        weight_decay: AdamW's decoupled weight decay.
        adam_beta2: AdamW's second-moment decay.
        max_grad_norm: Gradients are clipped to this norm.
        mixed_precision: Compute precision; master weights are always fp32.
        checkpoint_every: Steps (rollouts for PPO) between checkpoints; 0 keeps none, so that a killed run starts over.
        checkpoints_kept: Checkpoints on disk at most; older ones are removed.
        eval_every_epochs: Epochs between evaluations; the best one is kept.
        keep: Which weights are published: of the best evaluation, or the last.
        seed: Seeds data order, dropout and new heads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(8, ge=1)
    max_tokens_per_batch: int = Field(2048, ge=1)
    lora: LoRAParameters | None = None
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    activation_checkpointing: bool = False
    compile: bool = False
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    mixed_precision: Precision = "bf16"
    checkpoint_every: int = Field(0, ge=0)
    checkpoints_kept: int = Field(2, ge=1)
    eval_every_epochs: int = Field(1, ge=1)
    keep: Literal["best", "last"] = "best"
    seed: int = 0
