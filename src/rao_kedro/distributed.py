"""State of the processes of a distributed run."""

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, DistributedType
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """Return accelerate's state of this process. On CPUs accelerate must be told that several processes run."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def make_accelerator(precision: str) -> Accelerator:
    """Return accelerate's view of the processes, whose `autocast` is for modules that hold their weights in fp32.

    Args:
        precision: As `TrainingParameters.mixed_precision`. DeepSpeed holds weights in bf16 with either bf16.
    """
    by_engine = precision == "bf16_weights" and parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    return Accelerator(mixed_precision="bf16" if precision == "bf16" or by_engine else "no")


def sharding() -> str | None:
    """Return the engine that shards the model over processes, FSDP or DeepSpeed; None if none does.

    A sharded model cannot be sampled from during training.
    """
    kind = AcceleratorState().distributed_type
    return kind.value if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED) else None
