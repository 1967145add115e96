"""Runs tasks one after another as one of several processes: `python -m distributed_worker TASKS`.

TASKS is a JSON list of `[worker, spec path, stop after a step]`. A task that is refused with a sentence writes it to
`refused.txt` in its workspace. On CPUs too FSDP2 and DeepSpeed are used where they are asked for; accelerate itself has
them for GPUs only.
"""

import gc
import importlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType, GradientState, PartialState
from torch.distributed.fsdp import FSDPModule

from rao_kedro.distributed import process_state
from rao_kedro.errors import RaoKedroError
from rao_kedro.scoring import placement
from rao_kedro.training.interruption import Interruption
from rao_kedro.workers import worker_main

initialize, requested, backward = AcceleratorState.__init__, Interruption.requested, Accelerator.backward
shard, free_memory, loads_at_once = placement.shard, placement.free_memory, placement.loads_at_once
held = []  # by sharded models: bytes of their weights on this process before and after
gradients = Counter()  # of the backward passes under FSDP2: parameters with a sharded and with an unsharded gradient


def initialize_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    initialize(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def shard_with_record(module, mesh):
    """Shard as scoring does, and write down how many bytes of weights this process holds before and after."""
    before = sum(weight.nbytes for weight in module.parameters())
    shard(module, mesh)
    after = sum(weight.to_local().untyped_storage().nbytes() for weight in module.parameters())
    held.append((before, after))
    return module


def backward_with_count(self, loss, **kwargs):
    backward(self, loss, **kwargs)
    for module in (part for model in self._models for part in model.modules() if isinstance(part, FSDPModule)):
        for group in fsdp_groups(module):
            for parameter in group.fsdp_params:
                whole = getattr(parameter, "_unsharded_param", None)
                gradients["sharded"] += parameter.sharded_param.grad is not None
                gradients["unsharded"] += parameter.unsharded_accumulated_grad is not None
                gradients["unsharded"] += whole is not None and whole.grad is not None


def fsdp_groups(module):
    """Return the parameter groups of a module; torch before 2.13 has one of them."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None)
    return [state._fsdp_param_group] * (state._fsdp_param_group is not None) if groups is None else groups


def main(tasks_path):
    kind, environment = process_state().distributed_type, dict(os.environ)
    for worker, spec_path, stops in json.loads(Path(tasks_path).read_text()):
        process_state().print(f"begins: {spec_path}", flush=True)
        gradients.clear()
        held.clear()
        # Devices without free memory, and machines with little: models that are scored are sharded, one after another.
        no_room = "sharded" in Path(spec_path).parts
        placement.free_memory = (lambda device: 0) if no_room else free_memory
        placement.loads_at_once = (lambda n_bytes: 1) if no_room else loads_at_once
        Interruption.requested = (lambda self, accelerator: True) if stops else requested
        try:
            importlib.import_module(worker).main(spec_path)
        except RaoKedroError as error:
            if process_state().is_main_process:
                Path(spec_path).with_name("refused.txt").write_text(str(error))
        if gradients and process_state().is_main_process:
            Path(spec_path).with_name("gradients.json").write_text(json.dumps(gradients))
        if held:
            Path(spec_path).with_name(f"held-{process_state().process_index}.json").write_text(json.dumps(held))
        as_at_the_start(kind, environment)


def as_at_the_start(kind, environment):
    """Forget what accelerate and DeepSpeed remember of a task, but for the process group."""
    if "deepspeed" in sys.modules:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._shared_state["distributed_type"] = kind
    os.environ.clear()
    os.environ.update(environment)
    gc.collect()
    process_state().wait_for_everyone()


if __name__ == "__main__":
    AcceleratorState.__init__, Accelerator.backward = initialize_with_fsdp, backward_with_count
    placement.shard = shard_with_record
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        PartialState._prepare_backend = lambda self, *args: ("gloo", DistributedType.MULTI_CPU)
    worker_main(main)
