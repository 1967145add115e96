"""LoRA adapters (Hu et al. 2021), by peft: a low-rank update of every linear layer, and the plain weights it makes."""

from collections.abc import Mapping

from torch import Tensor, nn
from transformers import PreTrainedModel

from rao_kedro.schemas.training import LoRAParameters

ADAPTER = "default"


def add_lora(module: nn.Module, parameters: LoRAParameters) -> None:
    """Freeze the models inside `module`, and add trainable adapters to them; heads stay trainable.

    The adapters start at 0, so the module computes what it computed before.
    """
    from peft import LoraConfig, inject_adapter_in_model

    for model in outermost_models(module):
        config = LoraConfig(
            r=parameters.rank,
            lora_alpha=parameters.alpha,
            lora_dropout=0.0,  # the reference has none
            target_modules=parameters.target_modules,
        )
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        if isinstance(head := getattr(model, "score", None), nn.Module):
            head.requires_grad_(True)


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


def outermost_models(module: nn.Module) -> list[PreTrainedModel]:
    """Return the models of transformers inside `module` that are not part of another."""
    if isinstance(module, PreTrainedModel):
        return [module]
    return [model for child in module.children() for model in outermost_models(child)]
