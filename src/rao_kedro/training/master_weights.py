"""Master weights: the optimizer updates fp32 weights, of which the module computes with copies in bf16.

The gradients of the copies are added up in fp32, pack by pack. Nothing is cast in a pass, and hidden states are bf16. A
learning rate of 5e-7 is less than bf16 resolves, so the copies alone would not move. Knows no task.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rao_kedro.models.bf16_weights import round_weights

_CHECKPOINT_PREFIX = "_checkpoint_wrapped_module."  # FSDP's own activation checkpointing inserts it
CHUNK = 2**26  # gradients that are reduced in one call: 256 MB


class MasterWeights:
    """The fp32 weights of a module on one device, or on several with all weights on each (data parallelism).

    Attributes:
        parameters: What the optimizer updates, by its name in the module: the master of a weight in bf16, and the
            module's own parameter where that is fp32. Frozen parameters are left out.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """Round the weights of `module` to bf16, move it to `device`, and keep the fp32 weights there as masters.

        Frozen weights have no master. Where rounding changed one, its fp32 original stays on the CPU.
        """
        originals = {name: parameter.data for name, parameter in module.named_parameters()}
        round_weights(module)
        module.to(device)
        self.parameters: dict[str, nn.Parameter] = {}
        self._copies: dict[str, nn.Parameter] = {}
        self._frozen: dict[str, Tensor] = {}
        for name, parameter in module.named_parameters():
            original = originals.pop(name)
            if parameter.requires_grad and parameter.dtype == original.dtype:
                self.parameters[name] = parameter
            elif parameter.requires_grad:
                self.parameters[name] = nn.Parameter(original.to(device))
                self._copies[name] = parameter
                parameter.register_post_accumulate_grad_hook(_add_to(self.parameters[name]))
            elif not torch.equal(original.to(parameter.dtype).to(original.dtype), original):
                self._frozen[name] = original

    def average_gradients(self) -> None:
        """Average the gradients over the processes; a gradient that a process has not got is 0 there."""
        if not dist.is_initialized() or (n_processes := dist.get_world_size()) == 1:
            return
        for master in self.parameters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        gradients = [master.grad for master in self.parameters.values() if master.grad is not None]
        for chunk in _chunks(gradients):
            flat = torch.cat([gradient.flatten() for gradient in chunk])
            dist.all_reduce(flat.div_(n_processes))
            pieces = flat.split([gradient.numel() for gradient in chunk])
            for gradient, piece in zip(chunk, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters to the copies, after an optimizer step or after loading a checkpoint."""
        torch._foreach_copy_([*self._copies.values()], [self.parameters[name] for name in self._copies])

    def gather(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the module's state dict on the CPU, with the fp32 weights in place of the copies.

        Frozen weights that rounding has not changed are in bf16. Tied weights are there under every name.
        """
        exact: Mapping[str, Tensor] = self.parameters | self._frozen
        of_copy = {id(copy): exact[name] for name, copy in module.named_parameters() if name in exact}
        state = module.state_dict()
        for name, copy in module.named_parameters(remove_duplicate=False):
            state[name] = of_copy.get(id(copy), copy).detach()
        return {name: value.cpu() for name, value in state.items()}


def named_trained_parameters(module: nn.Module, masters: MasterWeights | None) -> dict[str, nn.Parameter]:
    """Return what the optimizer updates, by its name in the module: the masters, or the module's own parameters.

    Args:
        module: A module without a wrapper for data parallelism; its parameters may be sharded.
        masters: Its master weights, if it computes with copies.
    """
    if masters is not None:
        return masters.parameters
    named = ((name.replace(_CHECKPOINT_PREFIX, ""), parameter) for name, parameter in module.named_parameters())
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _add_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    """Return a hook that adds the gradient of a copy to that of its master, and frees it."""

    def add(copy: Tensor) -> None:
        assert copy.grad is not None
        if master.grad is None:
            master.grad = copy.grad.to(master.dtype)
        else:
            master.grad += copy.grad
        copy.grad = None

    return add


def _chunks(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return gradients in runs of about `CHUNK` elements, in their order."""
    ends = torch.tensor([0] + [gradient.numel() for gradient in gradients]).cumsum(0).tolist()
    numbered = zip((end // CHUNK for end in ends), gradients, strict=False)
    return [[gradient for _, gradient in run] for _, run in groupby(numbered, key=lambda of: of[0])]
