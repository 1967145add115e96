"""What a plan takes for what nobody has counted or measured yet: the figures of the parameter `planning`."""

from collections.abc import Iterator
from textwrap import wrap

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.training import TrainingParameters
from rao_kedro.planning.lengths import Group
from rao_kedro.planning.machine import Launch
from rao_kedro.planning.steps import Run

TFLOP = 1e12
UPDATE_FLOPS, FROZEN_FLOPS, PASS_FLOPS = 6, 4, 2  # per weight and token: trained, frozen under adapters, no gradients


def assumed_groups(run: Run) -> list[Group] | None:
    """Return groups of the mean lengths that `planning.groups` names; None where it names none, or data are sampled."""
    sizes = run.planning().groups
    if sizes is None or (data := run.parameter("data")).source != "preferences":
        return None
    prompts = min(data.evaluation_prompts, sizes.held_out // 2)
    splits = {"train": sizes.train, "test": prompts, "validation": sizes.held_out - prompts}
    responses = (sizes.response_tokens,) * sizes.responses
    return [
        group
        for split, n in splits.items()
        for group in [Group(f"mean {split}", split, sizes.prompt_tokens, responses)] * n
    ]


def assumed_conversations(run: Run) -> list[Group] | None:
    """Return conversations of the mean length that `planning.conversations` names; None where it names none.

    None is longer than `data.max_conversation_tokens`, at which long ones are cut.
    """
    sizes = run.planning().conversations
    if sizes is None:
        return None
    tokens = min(sizes.tokens, run.parameter("data").max_conversation_tokens)
    splits = {"train": sizes.train, "validation": sizes.held_out}
    return [group for split, n in splits.items() for group in [Group(f"mean {split}", split, 0, (tokens,))] * n]


def training_seconds(
    run: Run,
    training: TrainingParameters,
    method: MethodParameters | None,
    weights: int,
    tokens: int,
    prompt_tokens: int,
    launch: Launch | None,
) -> float | None:
    """Return the time of the updates of a training at the speed that `planning.gpu` names; None where it names none.

    Args:
        run: The run.
        training: The training.
        method: The method; None for SFT and reward models.
        weights: Number of weights of the model.
        tokens: Tokens in all epochs together.
        prompt_tokens: Those of them that are prompts, which are all that the value network of DRO reads.
        launch: What the accelerate file says.
    """
    speed = _speed(run, launch)
    if speed is None:
        return None
    of_value = 0
    if method is not None and method.requirements.value_network:
        of_value = tokens if method.requirements.reads == "rollouts" else prompt_tokens
    flops = (FROZEN_FLOPS if training.lora else UPDATE_FLOPS) * weights * (tokens + of_value)
    return flops / (speed[0] * TFLOP)


def scoring_seconds(run: Run, weights: int, tokens: int, launch: Launch | None) -> float | None:
    """Return the time of passes without gradients at the speed that `planning.gpu` names; None where it names none."""
    speed = _speed(run, launch)
    return None if speed is None else PASS_FLOPS * weights * tokens / (speed[1] * TFLOP)


def _speed(run: Run, launch: Launch | None) -> tuple[float, float] | None:
    """Return the TFLOP/s of training and of scoring on all GPUs together."""
    gpu = run.planning().gpu
    if gpu is None or launch is None or launch.on_cpu:
        return None
    return gpu.training_tflops * launch.processes, gpu.scoring_tflops * launch.processes


def sources(run: Run, width: int) -> Iterator[str]:
    """Yield the figures of `planning` with their sources, in lines of a width."""
    planning = run.planning()
    found = []
    if (groups := planning.groups) is not None:
        lengths = f"prompts of {groups.prompt_tokens} and responses of {groups.response_tokens} tokens"
        found.append(f"{groups.train:,} + {groups.held_out:,} groups, {lengths}: {groups.source}")
    if (of := planning.conversations) is not None:
        found.append(f"{of.train:,} + {of.held_out:,} conversations of {of.tokens:,} tokens: {of.source}")
    if planning.weights is not None:
        found.append(f"{planning.weights / 1e9:.2f}e9 weights")
    if (gpu := planning.gpu) is not None:
        speeds = f"{gpu.training_tflops:g} TFLOP/s in training, {gpu.scoring_tflops:g} in passes without gradients"
        found.append(f"a GPU has {speeds}: {gpu.source}")
    for text in found:
        yield from wrap(f"- {text}", width, subsequent_indent="  ")
