"""Forecasts the memory of a run before it starts, and measures memory and FLOPs while it runs."""

import resource
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rao_kedro.config.training import ADAM_BYTES, GRADIENT_BYTES, TrainingParameters
from rao_kedro.distributed import sharding
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.scoring.packs import fill_packs, split_if_long
from rao_kedro.training.task import Task

PACKED = 10_000  # groups, evenly drawn, from which the longest pack is told


def saved_bytes(forward: Callable[[], None]) -> int:
    """Return the bytes that a forward pass saves for its backward pass, without the parameters."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base  # a transposed weight is a view of it
        if not isinstance(whole, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def memory_in_use(device: torch.device) -> int:
    """Return the bytes in use now: allocated on the GPU, or resident in this process on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def peak_memory(device: torch.device) -> int:
    """Return the peak of the bytes in use so far: allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # ru_maxrss includes what the parent process used when it started this one
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Return the FLOP/s of a large square matrix product, the best one within `seconds`."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        best = max(best, 2 * n**3 / (now - start))
        if now > end:
            return best


def flops_per_token(module: nn.Module) -> int:
    """Return the FLOPs of a forward and a backward pass over a token: 6 per trainable parameter, 4 per frozen one."""
    return sum(_n_elements(p) * (6 if p.requires_grad else 4) for p in module.parameters())


def _n_elements(parameter: nn.Parameter) -> int:
    n: int = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 empties the parameter itself
    return n


def forecast(task: Task, accelerator: Accelerator, module: nn.Module, parameters: TrainingParameters) -> str:
    """Return a sentence with the run's groups, tokens and steps, and its expected peak memory on each device.

    Passes over the shortest and the longest group measure the memory that a token takes. Every process takes part. The
    peak may have been before, while a model was in memory that only scored.
    """
    groups, n_groups = task.train_groups, len(task.train_groups)
    steps = -(-n_groups // parameters.batch_size) * parameters.epochs * task.passes_per_step
    drawn = groups[:: max(1, n_groups // PACKED)]
    longest = max(sum(g.n_tokens for g in pack) for pack in fill_packs(drawn, parameters.max_tokens_per_batch))
    in_use, peak_before = memory_in_use(accelerator.device), peak_memory(accelerator.device)
    ends = [
        choose(
            chain.from_iterable(split_if_long(group, parameters.max_tokens_per_batch) for group in groups),
            key=lambda piece: piece.n_tokens,
        )
        for choose in (min, max)
    ]
    longest = max(longest, ends[1].n_tokens)
    probes = [_measure_saved_bytes(task, accelerator, module, group) for group in ends]
    (n, kept), (n_longest, kept_longest) = probes
    per_token = (kept_longest - kept) / (n_longest - n) if n_longest > n else kept / n
    module.zero_grad()
    n_processes, sharded_by = accelerator.num_processes, sharding()
    trained = sum(_n_elements(p) for p in module.parameters() if p.requires_grad)
    states = (GRADIENT_BYTES + ADAM_BYTES) * trained // (n_processes if sharded_by else 1)
    peak = max(in_use + states + kept + int(per_token * (longest - n)), peak_before)
    n_long = sum(group.n_tokens > parameters.max_tokens_per_batch for group in groups)
    split = f" ({n_long} longer ones are computed twice, in pieces)" if n_long else ""
    per_process = f" of each of {n_processes} processes" if n_processes > 1 else ""
    per_process += f", sharded by {sharded_by}" if sharded_by else ""
    return (
        f"{n_groups} groups of {sum(g.n_tokens for g in groups)} tokens{split}, {steps} steps, packs of at most "
        f"{longest} tokens; about {peak / 1e9:.1f} GB of memory at the peak{per_process}"
    )


def _measure_saved_bytes(
    task: Task, accelerator: Accelerator, module: nn.Module, group: TokenizedGroup
) -> tuple[int, int]:
    """Return a group's tokens, and the bytes that its forward pass saves. Sharding expects the backward pass too."""
    module.train()
    batch = task.prepare_groups(module, [group], 0.0)
    losses = []

    def forward() -> None:
        with accelerator.autocast():
            outputs = task.compute(module, batch, accelerator.device)
            losses.append(sum(output.sum() for output in outputs))

    kept = saved_bytes(forward)
    accelerator.sync_gradients = False  # or DeepSpeed takes an optimizer step
    accelerator.backward(losses.pop() * 0)
    accelerator.sync_gradients = True
    return sum(g.n_tokens for g in batch), kept
