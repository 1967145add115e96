"""Checks of the machine: GPUs, packages, memory and disk that a run needs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.training import ADAM_BYTES, BF16_BYTES, FILLED, GRADIENT_BYTES, WEIGHT_BYTES, TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.planning.steps import Run, Step

_ON_GPUS = ("MULTI_GPU", "FSDP", "DEEPSPEED")
_SHARDED = ("FSDP", "DEEPSPEED")


class Launch(NamedTuple):
    """What an accelerate file says of processes.

    Attributes:
        kind: `distributed_type`.
        on_cpu: Whether no GPU is used.
        processes: Number of processes on all machines together.
        machines: Number of machines.
        options: Everything that the file says.
    """

    kind: str
    on_cpu: bool
    processes: int
    machines: int
    options: dict[str, Any]

    @property
    def sharded(self) -> bool:
        """Whether weights, gradients and optimizer state are divided among processes."""
        return self.kind in _SHARDED

    @property
    def offloads(self) -> bool:
        """Whether weights or optimizer state are kept outside the GPUs' memory."""
        fsdp, deepspeed = (self.options.get(f"{name}_config") or {} for name in ("fsdp", "deepspeed"))
        devices = [deepspeed.get(f"offload_{what}_device") for what in ("optimizer", "param")]
        return bool(fsdp.get("fsdp_offload_params")) or any(device not in (None, "none") for device in devices)


def launch_of_step(run: Run, step: Step) -> Launch | None:
    """Return how a step is launched; None where it runs in this process, or its accelerate file cannot be read."""
    workers = run.workers_of(step)
    found = None if workers is None else launch_of(workers)
    return None if isinstance(found, str) else found


def launch_of(workers: WorkerParameters) -> Launch | str | None:
    """Return how workers are launched, in a sentence why they cannot be, or None where they run in this process."""
    return None if workers.in_process else read_launch(workers.accelerate_config)


def read_launch(path: Path) -> Launch | str:
    """Return what an accelerate file says, or a sentence that says why it cannot be read."""
    if not path.exists():
        there = sorted(file.stem for file in path.parent.glob("*.yaml"))
        close = get_close_matches(path.stem, there, 1)
        meant = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(there)}"
        return f"there is no accelerate file {path}, which the global accelerate names: {meant}"
    try:
        options = yaml.safe_load(path.read_text())
        kind = str(options["distributed_type"])
        processes, machines = int(options.get("num_processes") or 1), int(options.get("num_machines") or 1)
        return Launch(kind, bool(options.get("use_cpu")), processes, machines, options)
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        return f"{path} is no accelerate file ({error}): `accelerate config` writes one"


def launch_problems(path: Path, launch: Launch) -> Iterator[str]:
    """Yield why the processes of an accelerate file could not be started."""
    if launch.kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        yield f"{path} asks for DeepSpeed, which is not installed: pip install deepspeed, or choose another file"
    if launch.kind == "FSDP" and (launch.options.get("fsdp_config") or {}).get("fsdp_version", 1) != 2:
        yield f"{path} asks for FSDP1: set fsdp_version: 2 in its fsdp_config"
    found = visible_gpus()
    if launch.on_cpu or launch.kind not in _ON_GPUS or found is None or os.environ.get("RAO_KEDRO_LAUNCHER"):
        return
    if (wanted := -(-launch.processes // launch.machines)) > found:
        yield (
            f"{path} starts {wanted} processes with a GPU each on this machine, which has {found or 'none'}: set "
            "num_processes, or choose another file (accelerate: cpu, one_gpu ...)"
        )


def training_problems(
    parameter: str, training: TrainingParameters, launch: Launch | None, samples: bool
) -> Iterator[str]:
    """Yield the options of training that do not work on this machine or with the accelerate file.

    Args:
        parameter: Name of the block.
        training: The block's values.
        launch: What the accelerate file says; None where training runs inside the pipeline's process.
        samples: Whether training samples from the policy, as PPO does.
    """
    on_cpu = (launch is not None and launch.on_cpu) or visible_gpus() == 0
    if training.optimizer == "adamw_8bit" and (on_cpu or find_spec("bitsandbytes") is None):
        missing = "a GPU" if on_cpu else "the package bitsandbytes"
        yield f"parameter {parameter}.optimizer: adamw_8bit needs {missing}, which is not here: set it to adamw"
    if training.compile is True and on_cpu and shutil.which(os.environ.get("CXX", "g++")) is None:
        yield f"parameter {parameter}.compile needs a C++ compiler on a CPU, and there is none: turn it off"
    if launch is None:
        return
    if training.compile is True and launch.kind == "DEEPSPEED":
        yield f"parameter {parameter}.compile does not work with DeepSpeed: turn it off, or choose another accelerate"
    fsdp = launch.options.get("fsdp_config") or {}
    if training.activation_checkpointing and launch.kind == "FSDP" and fsdp.get("fsdp_activation_checkpointing"):
        yield (
            f"parameter {parameter}.activation_checkpointing is on, and so is fsdp_activation_checkpointing in the "
            "accelerate file: turn one of them off"
        )
    if samples and launch.sharded:
        yield (
            f"{parameter.removesuffix('.training')}: ppo samples from the policy, which {launch.kind} would shard: use "
            "an accelerate file with one process, or with data parallelism alone (ppo_accelerate: ddp)"
        )


class ModelsInMemory(NamedTuple):
    """How many models of the policy's size a training holds.

    Attributes:
        trained: With gradients and optimizer state.
        frozen: Weights alone, as long as training lasts.
        scored_first: Weights alone, before the first step: beside the trained weights, which have no gradients and no
            optimizer state yet.
    """

    trained: int = 1
    frozen: int = 0
    scored_first: int = 0


ONE_MODEL = ModelsInMemory()


def models_in_memory(method: MethodParameters) -> ModelsInMemory:
    """Return how many models the training of a method holds.

    PPO that samples in training holds the reference, and maybe a reward model, too. In a round, whose samples and
    rewards are given, PPO needs the reference before the first step only.
    """
    trained = 2 if method.requirements.value_network else 1
    if method.in_rounds:
        return ModelsInMemory(trained, scored_first=int(method.objective == "ppo"))
    scored = 0 if method.rollout is None else 1 + (method.rollout.reward.name == "bradley_terry")
    return ModelsInMemory(trained, scored)


def scoring_bytes(precision: str, weights: int) -> int:
    """Return the bytes of the weights of a model that only scores."""
    return weights * (BF16_BYTES if precision == "bf16_weights" else WEIGHT_BYTES)


def state_bytes(
    training: TrainingParameters, weights: int, launch: Launch | None, models: ModelsInMemory = ONE_MODEL
) -> int:
    """Return the bytes of weights, gradients and optimizer state in each process, without activations.

    The peak is in training, or before it, where a model is scored first.

    Args:
        training: Parameters of the loop.
        weights: Number of weights of the model.
        launch: What the accelerate file says.
        models: How many models of that size there are at the same time.
    """
    adam = ADAM_BYTES // 4 if training.optimizer == "adamw_8bit" else ADAM_BYTES
    sharded = launch is not None and launch.sharded
    copies = training.mixed_precision == "bf16_weights" and not sharded
    if training.lora:
        of_each = BF16_BYTES if copies else WEIGHT_BYTES
    else:
        of_each = WEIGHT_BYTES + GRADIENT_BYTES + adam + (BF16_BYTES if copies else 0)
    shards = launch.processes if launch is not None and sharded else 1
    frozen = models.frozen * scoring_bytes(training.mixed_precision, weights)
    in_training = models.trained * weights * of_each // shards + frozen
    if not models.scored_first:
        return in_training
    at_first = models.trained * weights * (WEIGHT_BYTES + (BF16_BYTES if copies else 0)) // shards + frozen
    scored = models.scored_first * scoring_bytes(training.mixed_precision, weights)
    memory = gpu_memory()
    if launch is not None and launch.kind == "FSDP" and memory is not None and scored > FILLED * (memory - at_first):
        scored //= shards  # `scoring/placement.py` shards it
    return max(in_training, at_first + scored)


def memory_problems(step: str, needed: int, launch: Launch | None) -> Iterator[str]:
    """Yield a problem where weights, gradients and optimizer state alone exceed the memory."""
    gpus = visible_gpus()
    if launch is not None and (launch.offloads or (launch.kind in _ON_GPUS and not launch.on_cpu and gpus == 0)):
        return  # where GPUs are missing, another problem says so
    on_gpus = not (launch is None or launch.on_cpu) and gpus != 0
    there, what = (gpu_memory(), "the smallest GPU has") if on_gpus else (main_memory(), "this machine has")
    if there is not None and needed > there:
        yield (
            f"{step}: weights, gradients and optimizer take {size(needed)} of memory, and {what} {size(there)}: take a "
            "smaller model, lora, or an accelerate file that shards over more GPUs"
        )


def disk_problems(needed: int, at: Path) -> Iterator[str]:
    """Yield a problem where a disk has less room than the run surely needs."""
    free = free_bytes(at)
    if needed > free:
        yield (
            f"{at} has {size(free)} free, and the models and checkpoints of this run take {size(needed)}: make room, "
            "set data_root to another disk, or lower checkpoints_kept"
        )


def table_problems(needed: int, at: Path) -> Iterator[str]:
    """Yield a problem where a disk has less room than the tables of the data surely need."""
    if needed > (free := free_bytes(at)):
        yield (
            f"{at} has {size(free)} free, and the tables of this data take {size(needed)} at least: make room, set "
            "data_root to another disk, or set max_rows of the sources"
        )


def free_bytes(at: Path) -> int:
    """Return the free bytes of the disk that a path is on, or will be."""
    there = next(path for path in (at, *at.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def visible_gpus() -> int | None:
    """Return the number of GPUs that workers can use; None where it cannot be told."""
    if sys.platform != "linux" or any(Path(other).exists() for other in ("/dev/dxg", "/dev/kfd")):
        return None
    found = len([path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return found
    named = [name for name in chosen.split(",") if name.strip()]
    if "MIG" in chosen:
        return len(named) if found else 0
    return min(found, named.index("-1") if "-1" in named else len(named))


def gpu_memory() -> int | None:
    """Return the memory of the smallest GPU in bytes; None where it cannot be told."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return min(int(line) for line in said.splitlines() if line.strip()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def main_memory() -> int | None:
    """Return the memory and swap in bytes that processes may use; None where they cannot be told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    there = kilobytes["MemTotal"] * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        there = min(there, int(text))
    return there + kilobytes.get("SwapTotal", 0) * 1024


def size(n_bytes: float) -> str:
    """Return a number of bytes with a unit: 3.2 GB."""
    units: Sequence[str] = ("B", "kB", "MB", "GB", "TB")
    for unit in units[:-1]:
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if n_bytes >= 10 or unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} {units[-1]}"
