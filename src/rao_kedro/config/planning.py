"""What a plan takes for what nobody has counted or measured here yet. Nothing that a run makes depends on it."""

from pydantic import Field

from rao_kedro.config.base import Parameters


class GroupSizes(Parameters):
    """Sizes of preference data, used until the groups are tokenised.

    Attributes:
        train: Groups of the training split.
        held_out: Other groups, for evaluations during training and for reports.
        responses: Responses of a group.
        prompt_tokens: Mean length of a prompt, in tokens.
        response_tokens: Mean length of a response, in tokens.
        source: Where these figures are from.
    """

    train: int = Field(ge=1)
    held_out: int = Field(ge=0)
    responses: int = Field(2, ge=1)
    prompt_tokens: int = Field(ge=1)
    response_tokens: int = Field(ge=1)
    source: str = Field(min_length=1)


class ConversationSizes(Parameters):
    """Sizes of conversations, used until they are tokenised.

    Attributes:
        train: Conversations of the training split.
        held_out: Conversations that the best checkpoint is chosen on.
        tokens: Mean length of a conversation, in tokens.
        source: Where these figures are from.
    """

    train: int = Field(ge=1)
    held_out: int = Field(0, ge=0)
    tokens: int = Field(ge=1)
    source: str = Field(min_length=1)


class GPUSpeed(Parameters):
    """Speed of one GPU, used until a run has measured it.

    Attributes:
        training_tflops: In training: 6 FLOP per weight and token, in TFLOP/s.
        scoring_tflops: In passes without gradients: 2 FLOP per weight and token, in TFLOP/s.
        source: Where these figures are from.
    """

    training_tflops: float = Field(gt=0)
    scoring_tflops: float = Field(gt=0)
    source: str = Field(min_length=1)


class PlanningParameters(Parameters):
    """Figures for `kedro run --dry-run` and for the checks of a plan. What is there and can be counted wins.

    Attributes:
        weights: Number of weights of the base model, before it is downloaded.
        groups: Sizes of the preference data.
        conversations: Sizes of the conversations.
        gpu: Speed of one GPU.
    """

    weights: int | None = Field(None, ge=1)
    groups: GroupSizes | None = None
    conversations: ConversationSizes | None = None
    gpu: GPUSpeed | None = None
