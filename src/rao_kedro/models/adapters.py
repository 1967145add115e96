"""LoRA adapters (Hu et al. 2021) with peft: adds them to a model, and merges them into plain weights."""

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

    Heads get no adapters, since their weights are read without their forward pass: a classifier's head is trained in
    full, a language model's head stays frozen. The adapters start at 0, so the outputs of the module do not change.

    Args:
        module: A module that contains transformers models.
        parameters: Rank, alpha and target modules.

    Raises:
        ParameterError: `target_modules` names a layer that is not a linear layer of a backbone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for model in outermost_models(module):
        heads = find_heads(model)
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


def find_heads(model: PreTrainedModel) -> list[nn.Module]:
    """Return the modules of a model outside its backbone: the output projection, or a classifier's head."""
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
            f"its backbone; choose from {', '.join(known)}, or all-linear"
        )
    return [layer for layers in found.values() for layer in layers]


def merge_lora(weights: Mapping[str, Tensor], parameters: LoRAParameters) -> dict[str, Tensor]:
    """Merge the adapters of a state dict into its weights: `W + alpha / rank * B A` (Hu et al. 2021, section 4.1).

    Merged weights are fp32, or float64 where they were.
    """
    scaling = parameters.alpha / parameters.rank
    plain = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            a, b = (weights[f"{layer}.lora_{part}.{ADAPTER}.weight"].float() for part in "AB")
            update = scaling * (b @ a)
            weight = weight + (update if update.shape == weight.shape else update.T)
        plain[name.replace(".base_layer.", ".")] = weight
    return plain


def merge_adapter(model: Any, directory: str | Path) -> nn.Module:
    """Merge an adapter that peft saved into the weights of its model.

    Args:
        model: The adapter's base model.
        directory: The directory of the adapter.

    Raises:
        ModelError: peft cannot open the adapter, or it belongs to another model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the LoRA adapter in {directory} cannot be merged into its model: {error}") from error


def outermost_models(module: nn.Module) -> list[PreTrainedModel]:
    """Return the transformers models inside `module` that are not part of another model."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in outermost_models(child)]
