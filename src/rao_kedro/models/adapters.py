"""LoRA adapters (Hu et al. 2021), by peft: a low-rank update of every linear layer, and the plain weights it makes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from rao_kedro.config.training import LoRAParameters
from rao_kedro.errors import ModelError, ParameterError

ADAPTER = "default"


def add_lora(module: nn.Module, parameters: LoRAParameters) -> None:
    """Freeze the models inside `module`, and add trainable adapters to the linear layers of their backbones.

    Heads get none, since their weights are read without their forward pass: of a classifier they are trained as they
    are, of a language model they stay as they were. The adapters start at 0, so the module computes what it computed
    before.

    Raises:
        ParameterError: `target_modules` names what is no linear layer of a backbone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for model in outermost_models(module):
        heads = heads_of(model)
        names = _linear_layers(model, parameters.target_modules, heads)
        config = LoraConfig(
            r=parameters.rank,
            lora_alpha=parameters.alpha,
            lora_dropout=0.0,  # the reference has none
            target_modules=names,
        )
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        if model.get_output_embeddings() is None:
            for head in heads:
                head.requires_grad_(True)


def heads_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return what a model adds to its backbone: the output projection, or a classifier's head."""
    return [] if model.base_model is model else [child for child in model.children() if child is not model.base_model]


def _linear_layers(model: PreTrainedModel, wanted: list[str] | str, heads: list[nn.Module]) -> list[str]:
    """Return the full names of the layers that get an adapter."""
    from transformers.pytorch_utils import Conv1D

    of_heads = {id(module) for head in heads for module in head.modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in of_heads
    ]
    if isinstance(wanted, str):
        return linear
    found = {name: [layer for layer in linear if layer == name or layer.endswith(f".{name}")] for name in wanted}
    if unknown := [name for name, layers in found.items() if not layers]:
        known = sorted({layer.rpartition(".")[2] for layer in linear})
        raise ParameterError(
            f"lora.target_modules: {', '.join(unknown)}: {type(model).__name__} has no linear layer of that name in "
            f"its backbone; choose of {', '.join(known)}, or all-linear"
        )
    return [layer for layers in found.values() for layer in layers]


def merged(weights: Mapping[str, Tensor], parameters: LoRAParameters) -> dict[str, Tensor]:
    """Return the plain state dict that a state dict with adapters stands for: `W + alpha / rank * B A`."""
    scaling = parameters.alpha / parameters.rank
    plain = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            a, b = (weights[f"{layer}.lora_{part}.{ADAPTER}.weight"].float() for part in "AB")
            update = scaling * (b @ a)
            weight = (weight + (update if update.shape == weight.shape else update.T)).to(weight.dtype)
        plain[name.replace(".base_layer.", ".")] = weight
    return plain


def merge_adapter(model: Any, directory: str | Path) -> nn.Module:
    """Return a model with the adapter that peft saved in a directory merged into its weights.

    Raises:
        ModelError: peft cannot open it, or it belongs to another model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the LoRA adapter in {directory} cannot be merged into its model: {error}") from error


def outermost_models(module: nn.Module) -> list[PreTrainedModel]:
    """Return the models of transformers inside `module` that are not part of another."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in outermost_models(child)]
