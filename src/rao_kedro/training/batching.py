"""Which groups make up a step, and how a step's groups are packed; a pure function of the seed."""

import random
from collections.abc import Sequence

from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup


def epoch_steps(
    groups: Sequence[TokenizedGroup], groups_per_step: int, seed: int, epoch: int
) -> list[list[TokenizedGroup]]:
    """Return the optimizer steps of an epoch: a shuffle of all groups, cut into steps; the last may be smaller."""
    order = list(range(len(groups)))
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return [
        [groups[i] for i in order[start : start + groups_per_step]] for start in range(0, len(order), groups_per_step)
    ]


def packs(groups: Sequence[TokenizedGroup], max_tokens: int) -> list[list[TokenizedGroup]]:
    """Cut groups into packs of at most `max_tokens` tokens, in order.

    Raises:
        TrainingError: One group alone is longer; names it.
    """
    result: list[list[TokenizedGroup]] = []
    room = 0
    for group in groups:
        if group.n_tokens > max_tokens:
            raise TrainingError(
                f"group {group.group_id} has {group.n_tokens} tokens, more than max_tokens_per_batch = {max_tokens}: "
                "raise max_tokens_per_batch, or lower the length limits of data_engineering"
            )
        if not result or group.n_tokens > room:
            result.append([])
            room = max_tokens
        result[-1].append(group)
        room -= group.n_tokens
    return result


def share_of_process(
    all_packs: Sequence[Sequence[TokenizedGroup]], process: int, n_processes: int
) -> list[tuple[Sequence[TokenizedGroup], bool]]:
    """Return the packs of one process, each with whether it counts.

    Every process gets the same number, since sharded models need the same number of forward passes everywhere;
    where there are too few, the first pack is repeated and does not count.
    """
    n_each = -(-len(all_packs) // n_processes)
    mine = range(process, n_each * n_processes, n_processes)
    return [(all_packs[i], True) if i < len(all_packs) else (all_packs[0], False) for i in mine]
