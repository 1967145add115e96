"""Forward passes over packed groups without gradients: reference log-probs, rewards, evaluation.

Each process scores its share of the packs; all of them return everything, and the main one writes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from rao_kedro.config.specs import AnnotationSpec, ScoringSpec
from rao_kedro.distributed import process_state
from rao_kedro.errors import ModelError
from rao_kedro.files import write_parquet
from rao_kedro.identity import combined_hash
from rao_kedro.models.packing import Pack, TokenizedGroup, pack_groups, refuse_long_groups
from rao_kedro.progress import report_progress
from rao_kedro.scoring.packs import fill_packs, share_packs
from rao_kedro.shards import TABLE, Shards

Scores = TypeVar("Scores")
Group = TypeVar("Group")


@dataclass(frozen=True)
class ForwardPass:
    """How packs are computed on; a `ScoringSpec` says the same.

    Attributes:
        mixed_precision: Compute precision, that of training.
        max_tokens_per_batch: Tokens of one packed forward pass.
        t0_length: Tokens of the prefix t_0.
    """

    mixed_precision: str
    max_tokens_per_batch: int
    t0_length: int


class Logps(NamedTuple):
    """Summed log-probs of one group, in nats: of the prompt after t_0, and of its responses."""

    prompt: float
    responses: list[float]


def write_in_shards(
    spec: ScoringSpec | AnnotationSpec,
    key: str,
    groups: Sequence[Group],
    score: Callable[[Sequence[Group]], list[dict]],
) -> None:
    """Write a row per group to the spec's output; a killed run goes on after its last finished shard.

    Args:
        spec: The output, and how many groups make a shard.
        key: Hash of everything that the scores depend on.
        groups: What is scored, in the order of the rows.
        score: Returns the rows of some groups, the same on every process.
    """
    size, main = spec.groups_per_shard, process_state().is_main_process
    starts = range(0, len(groups), size)
    keys = [combined_hash(key, str(start), str(size)) for start in starts]
    shards = Shards(spec.workspace / "shards", TABLE)
    tables: dict[int, pa.Table] = {}
    if main:
        shards.discard_others(keys)
        tables = {start: t for start, of in zip(starts, keys, strict=True) if (t := shards.read(of)) is not None}
    (kept,) = broadcast_object_list([[*tables]])  # other machines may not see the main process's files
    what, done = f"scoring {spec.output_path.stem}", sum(map(len, tables.values()))
    if main and groups:
        report_progress(what, done, len(groups), "groups")
    for start, of in zip(starts, keys, strict=True):
        if start in kept:
            continue
        rows = score(groups[start : start + size])
        if main:
            tables[start] = pa.Table.from_pylist(rows)
            shards.write(of, tables[start])
            done += len(rows)
            report_progress(what, done, len(groups), "groups")
    if main:
        write_table([row for start in starts for row in tables[start].to_pylist()], spec.output_path)
        shards.remove()
    process_state().wait_for_everyone()


def read_all_groups(spec: ScoringSpec) -> list[TokenizedGroup]:
    """Read every group of the spec's table, responses in the table's own order."""
    rows = pq.read_table(spec.groups_path, columns=["group_id", "prompt_ids", "response_ids"]).to_pylist()
    return [TokenizedGroup(row["group_id"], row["prompt_ids"], row["response_ids"]) for row in rows]


def score_logps(
    module: nn.Module, groups: Sequence[TokenizedGroup], how: ForwardPass | ScoringSpec
) -> dict[str, Logps]:
    """Return the log-probs of each group by its id, responses in the order of the group.

    Args:
        module: A `LogProbModel`, which may be wrapped for training.
        groups: The groups; every process passes all of them.
        how: Precision and batch size.
    """
    result = {}
    for pack, batch, counts in _forward_packs(module, groups, how):
        logps = module(batch, prompt_gradient="detached")
        assert isinstance(logps.prompts, torch.Tensor)
        if counts:
            for group, prompt, responses in zip(pack, logps.prompts.tolist(), logps.responses.tolist(), strict=True):
                result[group.group_id] = Logps(prompt, responses[: len(group.response_ids)])
    return gather_scores(result, groups)


def score_rewards(module: nn.Module, groups: Sequence[TokenizedGroup], how: ForwardPass) -> dict[str, list[float]]:
    """Return the rewards of each group by its id, responses in the order of the group.

    Args:
        module: What `reward_module` returns.
        groups: The groups; every process passes all of them.
        how: Precision and batch size.

    Raises:
        ModelError: The rewards of one process do not depend on the responses.
    """
    result = {}
    for pack, batch, counts in _forward_packs(module, groups, how):
        rewards = module(batch).tolist()
        if counts:
            for group, of_group in zip(pack, rewards, strict=True):
                result[group.group_id] = of_group[: len(group.response_ids)]
    for share in (shares := gather_object([result])):
        refuse_constant_rewards([group for group in groups if group.group_id in share], share)
    return {group.group_id: share[group.group_id] for group in groups for share in shares if group.group_id in share}


def refuse_constant_rewards(groups: Sequence[TokenizedGroup], rewards: Mapping[str, Sequence[float]]) -> None:
    """Refuse a model's rewards that are all the same number, or that are in every group of several responses.

    Args:
        groups: What was scored; equal responses may have equal rewards.
        rewards: Of each group by its id.

    Raises:
        ModelError: They are.
    """
    scored = {(tuple(group.prompt_ids), tuple(ids)) for group in groups for ids in group.response_ids}
    values = {value for group in groups for value in rewards[group.group_id]}
    several = [rewards[g.group_id] for g in groups if len({tuple(ids) for ids in g.response_ids}) > 1]
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


def gather_scores(mine: dict[str, Scores], groups: Sequence[TokenizedGroup]) -> dict[str, Scores]:
    """Return what each process knows of its groups as everybody's, in the order of the groups."""
    known = {name: scores for share in gather_object([mine]) for name, scores in share.items()}
    return {group.group_id: known[group.group_id] for group in groups}


def _forward_packs(
    module: nn.Module, groups: Sequence[TokenizedGroup], how: ForwardPass | ScoringSpec
) -> Iterator[tuple[Sequence[TokenizedGroup], Pack, bool]]:
    """Yield packs of groups on the module's device, inside the precision of training and without gradients.

    Each comes with whether it counts: others are another process's, and only the pass is wanted.

    Raises:
        ModelError: A group is longer than the module's rotary embedding allows.
    """
    refuse_long_groups(module, groups)
    state = process_state()
    was_training = module.training
    module.to(state.device).eval()
    all_packs = fill_packs(groups, how.max_tokens_per_batch)
    autocast = torch.autocast(state.device.type, torch.bfloat16, enabled=how.mixed_precision == "bf16")
    with torch.no_grad(), autocast:
        for pack, counts in share_packs(all_packs, state.process_index, state.num_processes):
            yield pack, pack_groups(pack, how.t0_length).to(state.device), counts
    module.train(was_training)


def write_table(rows: list[dict], path: Path) -> None:
    """Write rows as a parquet file; processes other than the main one write nothing."""
    if process_state().is_main_process:
        write_parquet(path, pa.Table.from_pylist(rows))
