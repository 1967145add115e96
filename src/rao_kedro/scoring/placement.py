"""Where the weights of a scored model lie: all of them on every device, or sharded (FSDP2) where they do not fit.

Knows nothing of what a model scores.
"""

import gc
import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from accelerate.utils import gather_object, parse_flag_from_env
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from rao_kedro.config.training import FILLED
from rao_kedro.distributed import process_state
from rao_kedro.models.checks import weight_files

Module = TypeVar("Module", bound=nn.Module)


def place_for_scoring(load: Callable[[], Module], model_dir: Path, dtype: torch.dtype = torch.float32) -> Module:
    """Load a model for forward passes without gradients, and put it on the device of this process.

    Under an accelerate file with FSDP2, weights that would fill more than 75 % of a device's free memory are sharded
    over all processes. A pass gathers them layer by layer in the precision in which they are stored, so scores are the
    same as without sharding. Each process loads the whole model into the machine's memory first: only so many at a time
    do that as there is room for.

    Args:
        load: Returns the model, whose weights are compared with the checkpoint's files. Every process calls this.
        model_dir: The checkpoint.
        dtype: Precision in which the weights are loaded.
    """
    state = process_state()
    n_bytes = stored_weights(model_dir) * dtype.itemsize
    mesh = None
    if _must_shard(n_bytes):
        mesh = DeviceMesh(state.device.type, list(range(state.num_processes)))  # every process takes part
    at_once = min(gather_object([loads_at_once(n_bytes)]))
    of_machine, module = max(gather_object([state.local_process_index])) + 1, None
    for first in range(0, of_machine, at_once):
        if first <= state.local_process_index < first + at_once:
            module = load().to(state.device) if mesh is None else shard(load(), mesh)
            gc.collect()
        state.wait_for_everyone()
    assert module is not None
    return module


def stored_weights(model_dir: Path) -> int:
    """Return the number of weights in a checkpoint's files."""
    from safetensors import safe_open

    total = 0
    for path in weight_files(model_dir):
        with safe_open(path, framework="pt") as stored:
            total += sum(prod(stored.get_slice(key).get_shape()) for key in stored.keys())  # noqa: SIM118
    return total


def shard(module: Module, mesh: DeviceMesh) -> Module:
    """Shard a module over a mesh, for forward passes only: each decoder layer, and what is outside the layers."""
    module.requires_grad_(False)  # weights of one group may have two precisions then, such as a head in fp32
    names = getattr(module, "_no_split_modules", None) or ()
    for layer in [part for part in module.modules() if type(part).__name__ in names]:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return module


def _must_shard(n_bytes: int) -> bool:
    """Return whether weights are sharded, the same on every process."""
    state = process_state()
    fsdp2 = parse_flag_from_env("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION") == "2"
    if state.num_processes == 1 or not fsdp2:
        return False
    return n_bytes > FILLED * min(gather_object([free_memory(state.device)]))


def loads_at_once(n_bytes: int) -> int:
    """Return how many models of so many bytes fit into the free memory of this machine; at least 1."""
    return max(1, int(FILLED * psutil.virtual_memory().available / n_bytes))


def free_memory(device: torch.device) -> int:
    """Return the bytes that a process can still allocate on its device; on a CPU, processes share what is free."""
    if device.type != "cuda":
        return psutil.virtual_memory().available // process_state().num_processes
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]
