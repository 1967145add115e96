"""The forward and backward passes of an optimizer step, over packs and processes.

A group that is longer than a pack is split by response, exactly. Its pieces are computed without gradients; the loss of
the whole group gives the derivative with respect to each output; then each piece is computed again, and its backward
pass starts from these derivatives (the idea of GradCache: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup").
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import DistributedType
from accelerate.utils import gather_object
from torch import Tensor, nn

from rao_kedro.distributed import sharding
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.scoring.forward import piece_key
from rao_kedro.scoring.packs import fill_packs, share_packs
from rao_kedro.training.task import Outputs, Task

Share = list[tuple[Sequence[TokenizedGroup], bool]]  # the packs of a process, each with whether its results count


class Passes:
    """The forward and backward passes of a step, or the forward passes of an evaluation, over all processes."""

    def __init__(self, task: Task, accelerator: Accelerator, module: nn.Module, max_tokens: int) -> None:
        """Compute in packs of at most `max_tokens` tokens. The module may be wrapped for training."""
        self.task, self.accelerator, self.module, self.max_tokens = task, accelerator, module, max_tokens

    def forward_backward(self, groups: Sequence[TokenizedGroup], progress: float) -> dict[str, float]:
        """Accumulate the gradient of the mean loss over `groups`; return the mean metrics."""
        return self._over_packs(groups, progress, backward=True)

    def evaluate(self, groups: Sequence[TokenizedGroup], progress: float) -> dict[str, float]:
        """Return the mean loss and metrics over `groups`."""
        self.module.eval()
        with torch.no_grad():
            return self._over_packs(groups, progress, backward=False)

    def _over_packs(self, groups: Sequence[TokenizedGroup], progress: float, backward: bool) -> dict[str, float]:
        accelerator = self.accelerator
        groups = self.task.prepare_groups(self.module, groups, progress)
        means = _Means(self.task, groups, accelerator)
        whole = self._share([group for group in groups if group.n_tokens <= self.max_tokens])
        long = [group for group in groups if group.n_tokens > self.max_tokens]
        pieces = self._share(long)
        seed = round(progress * 2**31)
        derivatives: dict[str, Outputs] = {}
        for i, (group, outputs) in enumerate(zip(long, self._outputs_of_long(long, pieces, seed), strict=True)):
            with accelerator.autocast(), torch.set_grad_enabled(backward):
                mine = i % accelerator.num_processes == accelerator.process_index
                loss = means.add([group], outputs, counts=mine)
                if backward:
                    derivatives[group.group_id] = torch.autograd.grad(loss, outputs, materialize_grads=True)
        passes = [*whole, *pieces] if backward else whole
        for i, (pack, counts) in enumerate(passes):
            last = i == len(passes) - 1
            with accelerator.autocast(), _sync_gradients(accelerator, self.module, when=last):
                if i < len(whole):
                    loss = means.add(pack, self._compute(pack), counts)
                else:
                    with _same_dropout(seed + i - len(whole), accelerator.device):
                        loss = _from_derivatives(self._compute(pack), pack, derivatives)
                if backward:
                    # Data-parallel gradients are averaged over the processes; this loss is a sum over them.
                    accelerator.backward(loss * (counts * accelerator.num_processes))
        return self.task.summarise(means.reduce())

    def _share(self, groups: Sequence[TokenizedGroup]) -> Share:
        accelerator = self.accelerator
        packs = fill_packs(groups, self.max_tokens)
        return share_packs(packs, accelerator.process_index, accelerator.num_processes)

    def _compute(self, pack: Sequence[TokenizedGroup]) -> Outputs:
        return self.task.compute(self.module, pack, self.accelerator.device)

    @torch.no_grad()
    def _outputs_of_long(self, groups: Sequence[TokenizedGroup], pieces: Share, seed: int) -> Iterator[Outputs]:
        """Yield the outputs of each group as leaves of a graph, from those of its pieces on all processes."""
        mine: dict[tuple[str, int], Outputs] = {}
        for i, (pack, counts) in enumerate(pieces):
            with self.accelerator.autocast(), _same_dropout(seed + i, self.accelerator.device):
                outputs = self._compute(pack)
            for row, piece in enumerate(pack if counts else []):
                k = len(piece.response_ids)
                of_row = (x[row : row + 1] for x in outputs)
                mine[piece_key(piece)] = tuple((x if x.dim() == 1 else x[:, :k]).cpu() for x in of_row)
        found = {key: of_piece for share in gather_object([mine]) for key, of_piece in share.items()}
        for group in groups:
            parts = [found[piece_key(piece)] for piece in group.split(self.max_tokens)]
            joined = (_join(tensors).to(self.accelerator.device) for tensors in zip(*parts, strict=True))
            yield tuple(tensor.requires_grad_() for tensor in joined)


class _Means:
    """The mean loss and metrics of a step over all groups and processes."""

    def __init__(self, task: Task, groups: Sequence[TokenizedGroup], accelerator: Accelerator) -> None:
        self.task, self.accelerator = task, accelerator
        self.n_units, self.n_groups = task.count_units(groups), len(groups)
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=accelerator.device))

    def add(self, groups: Sequence[TokenizedGroup], outputs: Outputs, counts: bool) -> Tensor:
        """Add whole groups if they count; return their part of the mean loss."""
        output = self.task.loss(outputs, groups)
        loss = output.loss * (self.task.count_units(groups) / self.n_units)
        self.sums["loss"] = self.sums["loss"] + loss.detach().float() * counts
        for name, value in output.metrics.items():
            weight = len(groups) / self.n_groups * counts
            self.sums[name] = self.sums[name] + value.detach().float() * weight
        return loss

    def reduce(self) -> dict[str, float]:
        """Return the means; every process calls this."""
        names = sorted(self.sums)
        values = self.accelerator.reduce(torch.stack([self.sums[name] for name in names]), reduction="sum")
        return dict(zip(names, values.tolist(), strict=True))


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Return the output of a group from those of its pieces, `[1]` for the prompt or `[1, k, ...]` for responses."""
    if parts[0].dim() == 1:
        return parts[0]  # each piece has the same prompt
    if parts[0].dim() == 3:
        width = max(part.shape[2] for part in parts)
        parts = [F.pad(part, (0, width - part.shape[2])) for part in parts]
    return torch.cat(list(parts), dim=1)


def _from_derivatives(outputs: Outputs, pieces: Sequence[TokenizedGroup], derivatives: Mapping[str, Outputs]) -> Tensor:
    """Return a scalar whose derivative with respect to each output of the pieces is the given one of its group."""
    total = outputs[0].new_zeros(())
    for n, output in enumerate(outputs):
        weights = torch.zeros_like(output)
        for row, piece in enumerate(pieces):
            of_group, first, k = derivatives[piece.group_id][n], piece.first_response, len(piece.response_ids)
            if output.dim() > 1:
                columns = of_group[0, first : first + k]
                weights[row, :k] = columns[:, : output.shape[2]] if output.dim() == 3 else columns
            elif first == 0:
                weights[row] = of_group[0]
        total = total + (weights * output).sum()
    return total


@contextmanager
def _same_dropout(seed: int, device: torch.device) -> Iterator[None]:
    """Draw the same random numbers in both passes over a piece."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _sync_gradients(accelerator: Accelerator, module: nn.Module, when: bool) -> AbstractContextManager[None]:
    accelerator.sync_gradients = when  # DeepSpeed takes its optimizer step in the backward pass that syncs
    # FSDP2 reduce-scatters the gradients of every pack: without that, each process would keep all of them unsharded.
    return nullcontext() if when or sharding() == DistributedType.FSDP else accelerator.no_sync(module)
