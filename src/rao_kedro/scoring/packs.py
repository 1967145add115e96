"""Fills batches of a number of tokens with prompt groups, and shares these packs among processes.

A group that is longer than a batch is split by response: a response depends on its prompt only.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup


def fill_packs(groups: Sequence[TokenizedGroup], max_tokens: int) -> list[list[TokenizedGroup]]:
    """Put groups into packs of at most `max_tokens` tokens by best-fit decreasing.

    The longest group comes first, and each goes into the pack whose free room it fills best. A group that is longer
    than a pack becomes several pieces, each with the prompt and some of the responses; see `TokenizedGroup.split`.

    Raises:
        TrainingError: A prompt and one of its responses are longer than a pack.
    """
    pieces = [piece for group in groups for piece in split_if_long(group, max_tokens)]
    result: list[list[TokenizedGroup]] = []
    rooms: list[tuple[int, int]] = []  # of each pack: tokens that still fit, and its position in `result`; ascending
    for group in sorted(pieces, key=lambda piece: piece.n_tokens, reverse=True):
        if group.n_tokens > max_tokens:
            raise TrainingError(
                f"the prompt of group {group.group_id} and one of its responses have {group.n_tokens} tokens, more "
                f"than max_tokens_per_batch = {max_tokens}: raise max_tokens_per_batch, or lower the length limits of "
                "data_engineering"
            )
        best = bisect_left(rooms, (group.n_tokens, 0))
        room, i = rooms.pop(best) if best < len(rooms) else (max_tokens, len(result))
        if i == len(result):
            result.append([])
        result[i].append(group)
        insort(rooms, (room - group.n_tokens, i))
    return result


def split_if_long(group: TokenizedGroup, max_tokens: int) -> list[TokenizedGroup]:
    """Return the group itself, if it fits a pack, and its pieces otherwise."""
    return [group] if group.n_tokens <= max_tokens else group.split(max_tokens)


def share_packs(
    all_packs: Sequence[Sequence[TokenizedGroup]], process: int, n_processes: int
) -> list[tuple[Sequence[TokenizedGroup], bool]]:
    """Return the packs of one process, each with whether its result counts.

    All processes get the same number of packs, since a sharded model needs the same number of forward passes on every
    process. Where packs are too few, the first one is repeated, and the repetition does not count.
    """
    n_each = -(-len(all_packs) // n_processes)
    mine = range(process, n_each * n_processes, n_processes)
    return [(all_packs[i], True) if i < len(all_packs) else (all_packs[0], False) for i in mine]
