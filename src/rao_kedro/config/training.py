"""Parameters of the training loop, which are the same for every task."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rao_kedro.config.base import Parameters
from rao_kedro.config.rewards import RewardParameters

# Bytes per parameter of a model that is trained: in fp32, and of weights in bf16.
WEIGHT_BYTES, GRADIENT_BYTES, ADAM_BYTES, BF16_BYTES = 4, 4, 8, 2

# Share of the free memory, of a device or of the machine, that the weights of a model which only scores may fill; where
# they would fill more, FSDP2 shards them.
FILLED = 0.75

# YAML and the command line read an unquoted `no` as false.
Precision = Annotated[
    Literal["no", "bf16", "bf16_weights"], BeforeValidator(lambda value: "no" if value is False else value)
]


class RolloutParameters(Parameters):
    """What PPO samples from the policy, and how often it learns from a sample.

    The temperature is the only setting of the sampling. PPO's ratios are ratios of the policy's whole distribution;
    with top_p or a repetition penalty, the responses would come from another distribution.

    Attributes:
        samples_per_prompt: Responses per prompt of a rollout.
        max_new_tokens: Tokens after which a response is cut.
        temperature: Divides the logits, both in the rollout and in the update.
        ppo_epochs: Passes over each rollout; each is one optimizer step.
        reward: The reward that scores the responses.
    """

    samples_per_prompt: int = Field(1, ge=1)
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(1.0, gt=0)
    ppo_epochs: int = Field(4, ge=1)
    reward: RewardParameters = RewardParameters()


class LoRAParameters(Parameters):
    """Low-rank adapters instead of full fine-tuning. They are merged into the weights before a model is published.

    Attributes:
        rank: Rank of the update of a weight matrix.
        alpha: The update is multiplied by alpha / rank.
        target_modules: Names of the linear layers that get an adapter; `all-linear` takes all but the output
            projection.
    """

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class KLParameters(Parameters):
    """How evaluations during training estimate KL(policy || reference): on responses sampled from the policy.

    Attributes:
        prompts: Number of held-out prompts, with one sampled response each; 0 skips the estimate.
        max_new_tokens: Tokens after which a response is cut; the estimate is of the divergence up to there.
    """

    prompts: int = Field(64, ge=0)
    max_new_tokens: int = Field(256, ge=1)


class TrainingParameters(Parameters):
    """Settings of `rao_kedro.training.loop`.

    Attributes:
        epochs: Passes over the training groups.
        learning_rate: Peak of the schedule.
        batch_size: Prompt groups per optimizer step, over all processes.
        max_tokens_per_batch: Tokens of one packed forward pass; bounds memory. A longer group is split by response.
        lora: Trains adapters instead of all weights. It needs a learning rate that is about ten times higher.
        optimizer: AdamW, or the AdamW of bitsandbytes with 8-bit states, on CUDA only.
        activation_checkpointing: Recomputes each layer in the backward pass, for less memory and a third more compute.
        compile: Whether each decoder layer is compiled (`torch.compile`): faster, and less memory, after seconds of
            compilation on a GPU and a minute or two on a CPU. `auto` compiles on GPUs where an epoch is long enough to
            pay it back, and never on CPUs.
        lr_scheduler: Learning rate after the warm-up; see `rao_kedro.training.schedule`.
        warmup_ratio: Share of the steps over which the learning rate rises. It is not 0 in the first step.
        weight_decay: AdamW's decoupled weight decay.
        adam_beta2: AdamW's second-moment decay.
        max_grad_norm: Gradients are clipped to this norm.
        mixed_precision: Precision of the computation; master weights are always fp32. `no` computes in fp32. `bf16`
            casts the weights to bf16 in every pass (autocast), and keeps hidden states between layers in fp32.
            `bf16_weights` keeps copies of the weights in bf16, and computes hidden states in bf16; the optimizer
            updates fp32 masters.
        published_dtype: Precision of the published weights; None is bf16, and fp32 where training computes in fp32.
        checkpoint_every: Optimizer steps (for PPO rollouts) between checkpoints. With 0 there are none: a killed run
            starts over.
        checkpoints_kept: Maximal number of checkpoints on disk; older ones are removed.
        eval_every_epochs: Epochs between evaluations; there is always one at the end.
        eval_every_steps: Optimizer steps (for PPO rollouts) between evaluations, in place of `eval_every_epochs`.
        early_stopping_patience: Training stops after this many evaluations in a row without a better one. The learning
            rate falls as if it went on. Null trains to the end.
        keep: Whether the weights of the best evaluation or the last weights are published.
        seed: Seeds the data order, dropout and new heads.
    """

    epochs: int = Field(1, ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(8, ge=1)
    max_tokens_per_batch: int = Field(2048, ge=1)
    lora: LoRAParameters | None = None
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    activation_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    mixed_precision: Precision = "bf16"
    published_dtype: Literal["bf16", "fp32"] | None = None
    checkpoint_every: int = Field(0, ge=0)
    checkpoints_kept: int = Field(2, ge=1)
    eval_every_epochs: int = Field(1, ge=1)
    eval_every_steps: int | None = Field(None, ge=1)
    early_stopping_patience: int | None = Field(None, ge=1)
    keep: Literal["best", "last"] = "best"
    seed: int = 0

    @property
    def publishes_bf16(self) -> bool:
        """Whether the published weights are in bf16."""
        return self.published_dtype == "bf16" or (self.published_dtype is None and self.mixed_precision != "no")
