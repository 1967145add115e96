"""What a checkpoint holds: the trained parameters, the optimizer's state, the schedule and the random generators.

torch.distributed.checkpoint writes and reads the tensors, so a run can go on with another number of processes. Its
index is a pickle, of which only known types are read. Knows nothing of when a checkpoint is written, or whether
it is intact.
"""

import json
import pickle
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler

INDEX = ".metadata"
warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # torch says so of a run of one process


class TrainedState:
    """The state of a run that is not in its inputs: without the weights that LoRA freezes."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, schedule: LRScheduler
    ) -> None:
        """Hold what a run changes.

        Args:
            parameters: What the optimizer updates, by its name in the unwrapped module; `DTensor`s under FSDP2.
            optimizer: The optimizer of these parameters.
            schedule: Its learning rates.
        """
        self.parameters, self.optimizer, self.schedule = parameters, optimizer, schedule

    def share(self, process: int, n_processes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors that a process writes, which training goes on to change, and the rest, small and JSON.

        A process writes its shard of a sharded tensor. Whole tensors are divided among the processes by size.
        """
        tensors: dict[str, Tensor] = {f"model.{name}": value.detach() for name, value in self.parameters.items()}
        numbers: dict[str, float] = {}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{name}.{key}"] = value.detach()
                else:
                    numbers[f"optimizer.{name}.{key}"] = value
        whole = [name for name, value in tensors.items() if not isinstance(value, DTensor)]
        by_size = sorted(whole, key=lambda name: -tensors[name].numel())
        others = {name for i, name in enumerate(by_size) if i % n_processes != process}
        mine = {name: value for name, value in tensors.items() if name not in others}
        return mine, {"schedule": self.schedule.state_dict(), "optimizer": numbers}

    def load(self, directory: Path, rest: Mapping[str, Any], group: dist.ProcessGroup | None) -> None:
        """Continue with the state of a checkpoint. Every process of `group` takes part.

        Args:
            directory: Where `write_tensors` wrote the tensors of all processes.
            rest: What `share` returned beside the tensors.
            group: The processes, which may be more or fewer than those that wrote; None for one.
        """
        reader = _Reader(directory)
        stored = reader.read_metadata().state_dict_metadata
        tensors: dict[str, Tensor] = {}
        state: dict[str, dict[str, Any]] = {name: {} for name in self.parameters}
        for name, parameter in self.parameters.items():
            tensors[f"model.{name}"] = parameter.detach()
        for full_name, of_tensor in stored.items():
            kind, _, rest_of_name = full_name.partition(".")
            name, _, key = rest_of_name.rpartition(".")
            if kind == "optimizer" and name in state and isinstance(of_tensor, TensorStorageMetadata):
                parameter = self.parameters[name]
                tensors[full_name] = state[name][key] = _empty_like(parameter, of_tensor)
        dcp.load(tensors, storage_reader=reader, process_group=group, no_dist=group is None)
        for full_name, value in rest["optimizer"].items():
            name, _, key = full_name.removeprefix("optimizer.").rpartition(".")
            state[name][key] = value
        for name, of_parameter in state.items():
            if of_parameter:
                self.optimizer.state[self.parameters[name]] = of_parameter
        self.schedule.load_state_dict(rest["schedule"])
        for parameter_group, rate in zip(self.optimizer.param_groups, self.schedule.get_last_lr(), strict=True):
            parameter_group["lr"] = rate


def n_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of tensors; of sharded ones, of the shards of this process."""
    local = (value.to_local() if isinstance(value, DTensor) else value for value in tensors.values())
    return sum(value.nbytes for value in local)


def copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in the memory of the CPU; of sharded tensors, of the shards of this process."""
    copies: dict[str, Tensor] = BlockingAsyncStager().stage(dict(tensors))
    return copies


def write_tensors(tensors: Mapping[str, Tensor], directory: Path, group: dist.ProcessGroup | None) -> None:
    """Write the tensors of this process. Every process of `group` takes part; the first one writes the index.

    Raises:
        dcp.CheckpointException: A process could not write.
    """
    dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(directory), process_group=group, no_dist=group is None)


def _empty_like(parameter: nn.Parameter, stored: TensorStorageMetadata) -> Tensor:
    """Return a tensor for a stored state of a parameter, sharded as the parameter if it has its shape."""
    if stored.size == parameter.shape:
        return torch.empty_like(parameter.detach(), dtype=stored.properties.dtype)
    return torch.empty(stored.size, dtype=stored.properties.dtype, device=parameter.device)


class _Reader(dcp.FileSystemReader):
    """Reads a checkpoint without running code that its index might name."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / INDEX).open("rb") as file:
            metadata: Metadata = _IndexUnpickler(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


_METADATA = "torch.distributed.checkpoint.metadata"
_INDEX_TYPES = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
}


class _IndexUnpickler(pickle.Unpickler):
    """Builds the types of torch's index and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _INDEX_TYPES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in the index of a checkpoint")


def random_state(device: torch.device) -> str:
    """Return the state of all random generators of this process, as JSON."""
    algorithm, keys, *numbers = np.random.get_state(legacy=True)
    return json.dumps(
        {
            "python": random.getstate(),
            "numpy": [algorithm, np.asarray(keys).tolist(), *numbers],
            "torch": torch.get_rng_state().tolist(),
            "cuda": torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else None,
        }
    )


def set_random_state(state: str, device: torch.device) -> None:
    """Continue with the random numbers of `random_state`."""
    found = json.loads(state)
    version, internal, gauss = found["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(found["numpy"]))
    torch.set_rng_state(torch.tensor(found["torch"], dtype=torch.uint8))
    if device.type == "cuda" and found["cuda"] is not None:
        torch.cuda.set_rng_state(torch.tensor(found["cuda"], dtype=torch.uint8), device)
