"""Which of the processes this one is, and what is sharded over them."""

from accelerate import PartialState
from accelerate.state import AcceleratorState, DistributedType
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """Return accelerate's state of this process; on CPUs too, where its own default would see one process only."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def sharding() -> str | None:
    """Return what shards the module over processes, so that it cannot be sampled from in training; None if nothing."""
    kind = AcceleratorState().distributed_type
    return kind.value if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED) else None
