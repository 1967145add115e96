"""Forward passes over packed groups without gradients: what reference log-probs and rewards share."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from torch import nn

from rao_kedro.models.packing import PackedGroups, TokenizedGroup, pack_groups
from rao_kedro.schemas.specs import ScoringSpec
from rao_kedro.training.batching import packs


def read_all_groups(spec: ScoringSpec) -> list[TokenizedGroup]:
    """Read every group of the spec's table, responses in the table's own order."""
    rows = pq.read_table(spec.groups_path, columns=["group_id", "prompt_ids", "response_ids"]).to_pylist()
    return [TokenizedGroup(row["group_id"], row["prompt_ids"], row["response_ids"]) for row in rows]


def forward_packs(
    module: nn.Module, groups: list[TokenizedGroup], spec: ScoringSpec
) -> Iterator[tuple[list[TokenizedGroup], PackedGroups]]:
    """Yield packs of groups on the module's device, inside the precision of training and without gradients."""
    accelerator = Accelerator(mixed_precision=spec.mixed_precision)
    module.to(accelerator.device).eval()
    with torch.no_grad(), accelerator.autocast():
        for pack in packs(groups, spec.max_tokens_per_batch):
            yield pack, pack_groups(pack, spec.t0_length).to(accelerator.device)


def write_table(rows: list[dict], path: Path) -> None:
    """Write rows as parquet, beside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(path)
