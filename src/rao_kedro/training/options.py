"""Training options that change the module or the optimizer. Combinations that cannot work raise before step 0."""

import importlib.util
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel

from rao_kedro.config.training import TrainingParameters
from rao_kedro.distributed import sharding
from rao_kedro.errors import TrainingError
from rao_kedro.models.adapters import add_lora, outermost_models
from rao_kedro.models.attention import PACKED
from rao_kedro.training.forecast import flops_per_token

COMPILED_EPOCH_FLOPS = 30e15
"""Floating-point operations of an epoch in a process from which on compiling its layers pays.

Measured on an H100 with 16 layers of 1.24B parameters, attention inside: compiling takes about 6 s more than the eager
first steps, and a compiled step 20 to 25 % less time. At 40 % of that GPU's peak, 30 PFLOP are 95 s: three times what
pays the compilation back. Slower GPUs take longer for them, so that it pays the sooner.
"""


@dataclass(frozen=True)
class Compilation:
    """Whether decoder layers are compiled.

    Attributes:
        on: True where they are.
        reason: Why, as the end of a sentence about the run.
    """

    on: bool
    reason: str


def plan_compilation(
    module: nn.Module, parameters: TrainingParameters, accelerator: Accelerator, epoch_tokens: int
) -> Compilation:
    """Return whether compiling the decoder layers is asked for, or, for `auto`, pays within one epoch.

    Args:
        module: The module that will be trained, with its adapters.
        parameters: Settings of the run.
        accelerator: The devices.
        epoch_tokens: Tokens that all processes compute in an epoch.
    """
    if parameters.compile != "auto":
        return Compilation(parameters.compile, f"compiled layers are {'on' if parameters.compile else 'off'} as asked")
    if reason := _why_not_compiled(module, accelerator):
        return Compilation(False, f"layers are not compiled: {reason}")
    flops = flops_per_token(module) * epoch_tokens / accelerator.num_processes
    on = flops >= COMPILED_EPOCH_FLOPS
    return Compilation(
        on,
        f"layers are {'compiled' if on else 'not compiled'}: an epoch takes {flops / 1e15:.3g} PFLOP per process, "
        f"compiling pays from {COMPILED_EPOCH_FLOPS / 1e15:.0f} on",
    )


def _why_not_compiled(module: nn.Module, accelerator: Accelerator) -> str | None:
    """Return why `compile: auto` leaves the layers as they are, whatever the length of the run; None if it may not."""
    if accelerator.device.type != "cuda":
        return "the device is no GPU"
    if sharding() == DistributedType.DEEPSPEED:
        return "DeepSpeed does not work with it"
    if importlib.util.find_spec("triton") is None or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "triton or a C compiler is missing"
    for model in outermost_models(module):
        if model.config._attn_implementation != PACKED or not _decoder_layers(model):
            return f"{type(model).__name__} has its own attention, or does not name its layers"
    return None


def prepare_module(module: nn.Module, parameters: TrainingParameters, accelerator: Accelerator) -> nn.Module:
    """Add the LoRA adapters and activation checkpointing that the parameters ask for.

    Raises:
        TrainingError: A model in the module does not support one of them, or the accelerate file does it already.
    """
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is not None:
        _set_precision_of_shards(fsdp, parameters.mixed_precision)
    if (deepspeed := accelerator.state.deepspeed_plugin) is not None:
        # DeepSpeed requires a micro-batch size, which nothing uses: the loop makes the batches.
        deepspeed.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
        deepspeed.deepspeed_config["gradient_clipping"] = parameters.max_grad_norm
    if parameters.lora is not None:
        add_lora(module, parameters.lora)
    if parameters.activation_checkpointing:
        if fsdp is not None and fsdp.activation_checkpointing:
            raise TrainingError(
                "training.activation_checkpointing is on, and so is fsdp_activation_checkpointing in the accelerate "
                "file: turn one of them off"
            )
        for model in outermost_models(module):
            if not model.supports_gradient_checkpointing:
                raise TrainingError(f"{type(model).__name__} does not support activation checkpointing: turn it off")
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return module


def _set_precision_of_shards(fsdp: FullyShardedDataParallelPlugin, mixed_precision: str) -> None:
    """Gather weights in the compute precision, and keep gradients and log-probs in fp32.

    Hidden states between layers are fp32 with `bf16`, and bf16 with `bf16_weights`. accelerate's own policy rounds what
    a wrapped module returns to bf16: log-probs of 400 nats to even numbers.
    """
    if fsdp.fsdp_version != 2:
        raise TrainingError("the accelerate file asks for FSDP1: set fsdp_version: 2 in its fsdp_config")
    if mixed_precision != "no":
        fsdp.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            output_dtype=torch.float32 if mixed_precision == "bf16" else None,
            cast_forward_inputs=False,
        )


def compile_layers(module: nn.Module, accelerator: Accelerator) -> None:
    """Compile each decoder layer in place; nothing outside the layers is compiled.

    Where the variable-length kernel computes the attention, a layer is one graph for packs of every shape. Elsewhere
    the attention stays outside.

    Raises:
        TrainingError: There is no C++ compiler for a CPU, DeepSpeed is used, or a model does not name its layers.
    """
    compiler = os.environ.get("CXX", "g++")
    if accelerator.device.type == "cpu" and shutil.which(compiler) is None:
        raise TrainingError(f"training.compile needs a C++ compiler on a CPU; {compiler} is not installed: turn it off")
    if sharding() == DistributedType.DEEPSPEED:
        raise TrainingError("training.compile does not work with DeepSpeed: turn it off")
    for model in outermost_models(module):
        layers = _decoder_layers(model)
        if not layers:
            raise TrainingError(
                f"training.compile needs the class of the layers, which {type(model).__name__} does not name "
                "(_no_split_modules): turn it off"
            )
        for layer in layers:
            layer.compile(dynamic=True)


def _decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    names = model._no_split_modules or ()
    return [layer for layer in model.modules() if type(layer).__name__ in names]


def disable_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout of `model` to 0, and return it."""
    layer: Any
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = 0.0
    return model


def make_optimizer(
    trained: Iterable[nn.Parameter] | Iterable[dict[str, Any]], parameters: TrainingParameters, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer of the trained parameters, or of groups of them.

    Raises:
        TrainingError: The optimizer does not run on this machine, or not with the engine that shards the model.
    """
    settings: dict[str, Any] = {
        "lr": parameters.learning_rate,
        "weight_decay": parameters.weight_decay,
        "betas": (0.9, parameters.adam_beta2),
    }
    if parameters.optimizer == "adamw":
        return torch.optim.AdamW(trained, fused=True, **settings)
    if (engine := sharding()) is not None:
        raise TrainingError(
            f"optimizer adamw_8bit does not work with {engine}, whose checkpoints would not hold its states: set "
            "optimizer: adamw"
        )
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError(
            f"optimizer adamw_8bit needs a CUDA device and bitsandbytes; the device is {device.type}: set optimizer: "
            "adamw, or pip install bitsandbytes on a machine with a GPU"
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(trained, **settings)
