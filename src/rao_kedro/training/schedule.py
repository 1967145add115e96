"""The groups and the learning rate of each optimizer step: pure functions of the seed and the parameters."""

import math
import random
from collections.abc import Iterator, Sequence
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rao_kedro.config.training import TrainingParameters
from rao_kedro.models.packing import TokenizedGroup


def warmup_steps(parameters: TrainingParameters, n_steps: int) -> int:
    """Return the number of optimizer steps before the learning rate reaches its peak."""
    return math.ceil(parameters.warmup_ratio * n_steps)


def learning_rate_factor(step: int, lr_scheduler: str, warmup: int, n_steps: int) -> float:
    """Return the factor of the peak learning rate at a step, in (0, 1].

    The schedules are those of transformers, except that their warm-up starts at 0.

    Args:
        step: Steps taken, from 0.
        lr_scheduler: `linear` falls on a line that reaches 0 one step after the last, `cosine` on half a cosine to the
            same point; `constant_with_warmup` keeps the peak.
        warmup: Steps before the peak; their factor is (step + 1) / (warmup + 1).
        n_steps: Steps of the whole run.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, n_steps - warmup)
    match lr_scheduler:
        case "linear":
            return max(0.0, 1 - done)
        case "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
        case "constant_with_warmup":
            return 1.0
    raise ValueError(f"unknown lr_scheduler {lr_scheduler!r}")


def make_schedule(optimizer: Optimizer, parameters: TrainingParameters, n_steps: int) -> LambdaLR:
    """Return the schedule of an optimizer over `n_steps` steps."""
    warmup = warmup_steps(parameters, n_steps)
    factor = partial(learning_rate_factor, lr_scheduler=parameters.lr_scheduler, warmup=warmup, n_steps=n_steps)
    return LambdaLR(optimizer, factor)


def warmup_remark(parameters: TrainingParameters, n_steps: int) -> str | None:
    """Return a warning if the warm-up is as long as training, so that the learning rate never reaches its peak."""
    warmup = warmup_steps(parameters, n_steps)
    if warmup < n_steps:
        return None
    highest = parameters.learning_rate * learning_rate_factor(n_steps - 1, parameters.lr_scheduler, warmup, n_steps)
    return (
        f"warmup_ratio {parameters.warmup_ratio:g} makes the warm-up as long as training, {n_steps} optimizer steps: "
        f"the learning rate rises to {highest:.3g} and never reaches {parameters.learning_rate:g}. Take more steps "
        "(smaller batch_size, more epochs), or set warmup_ratio: 0"
    )


def epoch_steps(
    groups: Sequence[TokenizedGroup], batch_size: int, seed: int, epoch: int, first: int = 0
) -> Iterator[list[TokenizedGroup]]:
    """Yield the groups of each optimizer step of an epoch: all groups, shuffled; the last step may be smaller.

    Args:
        groups: The groups.
        batch_size: Groups of a step.
        seed: Of the order.
        epoch: Number of the epoch, which has an order of its own.
        first: Number of the first step to yield.
    """
    order = list(range(len(groups)))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    for start in range(first * batch_size, len(order), batch_size):
        yield [groups[i] for i in order[start : start + batch_size]]
