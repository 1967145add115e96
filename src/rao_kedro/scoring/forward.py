"""Forward passes over packed groups without gradients: reference log-probs, rewards, evaluation.

Each process scores its share of the packs. Every process returns the scores of all groups; the main process writes.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import torch
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from torch import nn

from rao_kedro.config.specs import AnnotationSpec, ScoringSpec
from rao_kedro.data.table_files import TableWriter
from rao_kedro.distributed import process_state
from rao_kedro.errors import DataError, ModelError
from rao_kedro.files import write_parquet
from rao_kedro.identity import combined_hash
from rao_kedro.models.packing import Pack, TokenizedGroup, pack_groups, refuse_long_groups
from rao_kedro.progress import NOTICE, report_progress
from rao_kedro.scoring.packs import fill_packs, share_packs, split_if_long
from rao_kedro.shards import TABLE, Shards

logger = logging.getLogger(__name__)

Score = TypeVar("Score")
Group = TypeVar("Group")
Pieces = dict[tuple[str, int], list[Score]]  # by `piece_key`, a value per response


@dataclass(frozen=True)
class ForwardPass:
    """Precision and batch size of a forward pass; a `ScoringSpec` has the same attributes.

    Attributes:
        mixed_precision: Compute precision, as `TrainingParameters.mixed_precision`; must be that of training. With
            `bf16_weights` the module holds its weights in bf16.
        max_tokens_per_batch: Tokens of one packed forward pass.
        t0_length: Tokens of the prefix t_0, which all prompts share.
    """

    mixed_precision: str
    max_tokens_per_batch: int
    t0_length: int


class Logps(NamedTuple):
    """Log-probs of one group in nats, summed over tokens: of the prompt after t_0, and of each response."""

    prompt: float
    responses: list[float]


def write_in_shards(
    spec: ScoringSpec | AnnotationSpec,
    key: str,
    schema: pa.Schema,
    groups: Sequence[Group],
    score: Callable[[Sequence[Group]], list[dict]],
) -> None:
    """Write a row per group to the spec's output; a killed run goes on after its last finished shard.

    Args:
        spec: The output, and how many groups make a shard.
        key: Hash of everything that the scores depend on.
        schema: Of the rows.
        groups: What is scored, in the order of the rows.
        score: Returns the rows of some groups, the same on every process.
    """
    size, main = spec.groups_per_shard, process_state().is_main_process
    starts = range(0, len(groups), size)
    keys = [combined_hash(key, str(start), str(size)) for start in starts]
    shards = Shards(spec.workspace / "shards", TABLE)
    sizes: dict[int, int] = {}
    if main:
        shards.discard_others(keys)
        found = zip(starts, map(shards.read, keys), strict=True)
        sizes = {start: len(table) for start, table in found if table is not None}
    (kept,) = broadcast_object_list([[*sizes]])  # other machines may not see the main process's files
    what, done = f"scoring {spec.output_path.stem}", sum(sizes.values())
    if main and done:
        logger.info("goes on: %d of %d groups are scored already", done, len(groups), extra=NOTICE)
    if main and groups:
        report_progress(what, done, len(groups), "groups")
    for start, shard_key in zip(starts, keys, strict=True):
        if start in kept:
            continue
        rows = score(groups[start : start + size])
        if main:
            shards.write(shard_key, pa.Table.from_pylist(rows, schema=schema))
            done += len(rows)
            report_progress(what, done, len(groups), "groups")
    if main:
        with TableWriter(spec.output_path, schema) as writer:
            for shard_key in keys:
                table = shards.read(shard_key)
                if table is None:
                    raise DataError(f"a shard in {shards.directory} was removed or changed meanwhile: run again")
                writer.write_batch(table)
        shards.remove()
    process_state().wait_for_everyone()


def score_logps(
    module: nn.Module, groups: Sequence[TokenizedGroup], forward_pass: ForwardPass | ScoringSpec
) -> dict[str, Logps]:
    """Return the log-probs of each group by its id, with the responses in the order of the group.

    Args:
        module: A `LogProbModel`, which may be wrapped for training.
        groups: The groups; every process passes all of them.
        forward_pass: Precision and batch size.

    Raises:
        ModelError: A group is longer than the model's rotary embedding allows.
    """
    mine: Pieces[tuple[float, float]] = {}
    for pack, batch, counts in _forward_packs(module, groups, forward_pass):
        logps = module(batch, prompt_gradient="detached")
        assert isinstance(logps.prompts, torch.Tensor)
        if counts:
            for piece, prompt, responses in zip(pack, logps.prompts.tolist(), logps.responses.tolist(), strict=True):
                mine[piece_key(piece)] = [(prompt, logp) for logp in responses[: len(piece.response_ids)]]
    found = join_pieces(gather_object([mine]), groups)
    return {name: Logps(of_group[0][0], [logp for _, logp in of_group]) for name, of_group in found.items()}


def score_tokens(
    module: nn.Module, groups: Sequence[TokenizedGroup], forward_pass: ForwardPass
) -> dict[str, list[tuple[torch.Tensor, ...]]]:
    """Return what a module computes at the response tokens of each group, by its id.

    Args:
        module: Returns `[R]` numbers in the order of `Pack.response_target`, or a tuple of such tensors. It may be
            wrapped for training.
        groups: The groups; every process passes all of them.
        forward_pass: Precision and batch size.

    Returns:
        Per response, in the order of the group, a tensor `[tokens]` on the CPU for each tensor of the module.

    Raises:
        ModelError: A group is longer than the model's rotary embedding allows.
    """
    mine: Pieces[tuple[NDArray[Any], ...]] = {}
    for pack, batch, counts in _forward_packs(module, groups, forward_pass):
        found = module(batch)
        if counts:
            lengths = batch.lengths[batch.mask].tolist()
            columns = (column.cpu().split(lengths) for column in (found if isinstance(found, tuple) else (found,)))
            # A tensor would be sent with the whole storage that it is a view of.
            of_pack = (tuple(tensor.numpy() for tensor in row) for row in zip(*columns, strict=True))
            for piece in pack:
                mine[piece_key(piece)] = [*islice(of_pack, len(piece.response_ids))]
    joined = join_pieces(gather_object([mine]), groups)
    return {name: [tuple(map(torch.from_numpy, row)) for row in of_group] for name, of_group in joined.items()}


def score_rewards(
    module: nn.Module, groups: Sequence[TokenizedGroup], forward_pass: ForwardPass
) -> dict[str, list[float]]:
    """Return the rewards of each group by its id, with the responses in the order of the group.

    Args:
        module: The module that `reward_module` returns.
        groups: The groups; every process passes all of them.
        forward_pass: Precision and batch size.

    Raises:
        ModelError: The rewards that one process computed do not depend on the responses, or a group is longer than the
            model's rotary embedding allows.
    """
    mine: Pieces[float] = {}
    for pack, batch, counts in _forward_packs(module, groups, forward_pass):
        rewards = module(batch).tolist()
        if counts:
            for piece, of_piece in zip(pack, rewards, strict=True):
                mine[piece_key(piece)] = of_piece[: len(piece.response_ids)]
    pieces = [p for group in groups for p in split_if_long(group, forward_pass.max_tokens_per_batch)]
    for share in (shares := gather_object([mine])):
        scored = [piece for piece in pieces if piece_key(piece) in share]
        refuse_constant_rewards(scored, [share[piece_key(piece)] for piece in scored])
    return join_pieces(shares, groups)


def refuse_constant_rewards(groups: Sequence[TokenizedGroup], rewards: Sequence[Sequence[float]]) -> None:
    """Refuse rewards that do not depend on the responses.

    Args:
        groups: The groups that were scored. Equal responses may have equal rewards.
        rewards: The rewards of each group.

    Raises:
        ModelError: All rewards are the same number, or each group with different responses has one reward for all.
    """
    scored = {(tuple(group.prompt_ids), tuple(ids)) for group in groups for ids in group.response_ids}
    values = {value for of_group in rewards for value in of_group}
    several = [
        of_group for g, of_group in zip(groups, rewards, strict=True) if len(set(map(tuple, g.response_ids))) > 1
    ]
    if len(scored) > 1 and len(values) == 1:
        found = f"are all {values.pop():g}"
    elif len(several) > 1 and all(len(set(of_group)) == 1 for of_group in several):
        found = f"differ in none of {len(several)} groups"
    else:
        return
    raise ModelError(
        f"the model's rewards of {len(scored)} different responses {found}: it has learnt nothing, or its weights were "
        "not loaded. Score with another model"
    )


def piece_key(piece: TokenizedGroup) -> tuple[str, int]:
    """Return what identifies a group, or a piece of a group that is longer than a pack."""
    return piece.group_id, piece.first_response


def join_pieces(shares: Iterable[Pieces[Score]], groups: Sequence[TokenizedGroup]) -> dict[str, list[Score]]:
    """Return a value per response of each group by its id, in the order of the groups.

    Args:
        shares: Of each process, the values of the pieces that it computed, by `piece_key`.
        groups: The groups.
    """
    joined: dict[str, list[Score]] = {group.group_id: [] for group in groups}
    for group_id, first in sorted(values := {key: of_piece for share in shares for key, of_piece in share.items()}):
        joined[group_id] += values[group_id, first]
    return joined


def _forward_packs(
    module: nn.Module, groups: Sequence[TokenizedGroup], forward_pass: ForwardPass | ScoringSpec
) -> Iterator[tuple[Sequence[TokenizedGroup], Pack, bool]]:
    """Yield packs of groups, or pieces of groups, on the module's device, in the compute precision, without gradients.

    The boolean beside each pack says whether its scores count. A pack that does not count is computed only because
    every process must make the same number of forward passes.

    Raises:
        ModelError: A group is longer than the module's rotary embedding allows.
    """
    refuse_long_groups(module, groups)
    state = process_state()
    was_training = module.training
    module.to(state.device).eval()
    all_packs = fill_packs(groups, forward_pass.max_tokens_per_batch)
    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=forward_pass.mixed_precision == "bf16")
    with torch.no_grad(), autocast:
        for pack, counts in share_packs(all_packs, state.process_index, state.num_processes):
            yield pack, pack_groups(pack, forward_pass.t0_length).to(state.device), counts
    module.train(was_training)


def write_table(rows: list[dict], path: Path) -> None:
    """Write rows as a parquet file; processes other than the main one write nothing."""
    if process_state().is_main_process:
        write_parquet(path, pa.Table.from_pylist(rows))
