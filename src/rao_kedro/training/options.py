"""Training options that change the module or the optimizer. Combinations that cannot work raise before step 0."""

import importlib.util
import os
import shutil
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


def prepare_module(module: nn.Module, parameters: TrainingParameters, accelerator: Accelerator) -> nn.Module:
    """Add the LoRA adapters, activation checkpointing and compiled layers that the parameters ask for.

    Raises:
        TrainingError: A model in the module does not support one of them, or the accelerate file does it already.
    """
    fsdp = getattr(accelerator.state, "fsdp_plugin", None)
    if fsdp is not None:
        _set_precision_of_shards(fsdp, accelerator.mixed_precision)
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
    if parameters.compile:
        _compile_layers(module, accelerator)
    return module


def _set_precision_of_shards(fsdp: FullyShardedDataParallelPlugin, mixed_precision: str) -> None:
    """Gather weights in the compute precision, and keep gradients, hidden states and log-probs in fp32.

    accelerate's own policy rounds what a wrapped module returns to bf16: log-probs of 400 nats to even numbers.
    """
    if fsdp.fsdp_version != 2:
        raise TrainingError("the accelerate file asks for FSDP1: set fsdp_version: 2 in its fsdp_config")
    if mixed_precision == "bf16":
        fsdp.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            output_dtype=torch.float32,
            cast_forward_inputs=False,
        )


def _compile_layers(module: nn.Module, accelerator: Accelerator) -> None:
    """Compile each decoder layer in place, without its attention; nothing outside the layers is compiled."""
    compiler = os.environ.get("CXX", "g++")
    if accelerator.device.type == "cpu" and shutil.which(compiler) is None:
        raise TrainingError(f"training.compile needs a C++ compiler on a CPU; {compiler} is not installed: turn it off")
    if sharding() == DistributedType.DEEPSPEED:
        raise TrainingError("training.compile does not work with DeepSpeed: turn it off")
    for model in outermost_models(module):
        names = model._no_split_modules or ()
        layers = [layer for layer in model.modules() if type(layer).__name__ in names]
        if not layers:
            raise TrainingError(
                f"training.compile needs the class of the layers, which {type(model).__name__} does not name "
                "(_no_split_modules): turn it off"
            )
        for layer in layers:
            layer.compile(dynamic=True)


def disable_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout of `model` to 0, and return it."""
    layer: Any
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = 0.0
    return model


def make_optimizer(module: nn.Module, parameters: TrainingParameters, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters.

    Raises:
        TrainingError: The optimizer does not run on this machine.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {
        "lr": parameters.learning_rate,
        "weight_decay": parameters.weight_decay,
        "betas": (0.9, parameters.adam_beta2),
    }
    if parameters.optimizer == "adamw":
        return torch.optim.AdamW(trained, fused=True, **settings)
    if device.type != "cuda" or importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError(
            f"optimizer adamw_8bit needs a CUDA device and bitsandbytes; the device is {device.type}: set optimizer: "
            "adamw, or pip install bitsandbytes on a machine with a GPU"
        )
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(trained, **settings)
