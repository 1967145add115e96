"""State of the processes of a distributed run."""

from accelerate import PartialState
from accelerate.state import AcceleratorState, DistributedType
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """Return accelerate's state of this process. On CPUs accelerate must be told that several processes run."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def sharding() -> str | None:
    """Return the engine that shards the model over processes, FSDP or DeepSpeed; None if none does.

    A sharded model cannot be sampled from during training.
    """
    kind = AcceleratorState().distributed_type
    return kind.value if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED) else None
