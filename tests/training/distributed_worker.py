"""Runs a task as one of several processes: `distributed_worker.py TASK SPEC [stop_after_a_step]`.

On CPUs too FSDP2 and DeepSpeed are used where they are asked for; accelerate itself has them for GPUs only.
"""

import importlib
import os
import sys

from accelerate.state import AcceleratorState, DistributedType, PartialState

from rao_kedro.processes import worker_main
from rao_kedro.training.interruption import Interruption

initialize = AcceleratorState.__init__


def initialize_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    initialize(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


task, _, *how = sys.argv[1:]
sys.argv = sys.argv[1:]
AcceleratorState.__init__ = initialize_with_fsdp
if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
    PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_CPU)
if how == ["stop_after_a_step"]:
    Interruption.requested = lambda self, accelerator: True
worker_main(importlib.import_module(f"rao_kedro.training.{task}").main)
