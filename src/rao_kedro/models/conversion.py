"""Makes a plain causal LM from an adapter and its base model, or from FP8 weights."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError
from rao_kedro.models.checks import ADAPTER, check_causal_lm, check_settings, read_settings
from rao_kedro.models.hub import local_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_base(adapter: Path) -> Path:
    """Return the directory of an adapter's base model, which is downloaded if the adapter names a model of the hub.

    Raises:
        ModelError: The base model cannot be found or used, or the adapter is of a kind that cannot be merged.
    """
    settings = read_settings(adapter / ADAPTER)
    name, kind = settings.get("base_model_name_or_path"), settings.get("task_type")
    if kind not in (None, "CAUSAL_LM"):
        raise ModelError(f"the adapter in {adapter} is for {kind} (task_type in its {ADAPTER}), not for a causal LM")
    if not (adapter / "adapter_model.safetensors").exists():
        raise ModelError(f"the adapter in {adapter} has no adapter_model.safetensors: save it again with peft")
    try:
        if not name:
            raise ModelError("it names no base_model_name_or_path")
        base = local_checkpoint(name, settings.get("revision"))
        check_settings(base)
        check_causal_lm(base)
    except ModelError as error:
        raise ModelError(
            f"the adapter in {adapter} cannot be merged into its base model {name!r}: {error}. If the base model is "
            f"elsewhere, write its directory as base_model_name_or_path into {ADAPTER}"
        ) from error
    return base


def merge_adapter(adapter: Path, base: Path) -> "PreTrainedModel":
    """Return the base model with an adapter merged into its weights, in fp32; the result has the base's precision.

    Raises:
        ModelError: The adapter does not fit the base model, or is of a kind that cannot be merged.
    """
    import torch
    from peft import PeftModel

    from rao_kedro.models.loading import load_causal_lm

    model: Any = load_causal_lm(base)
    model.set_attn_implementation("eager")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")  # they would be random
            merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, AttributeError, NotImplementedError, UserWarning) as error:
        raise ModelError(
            f"the adapter in {adapter} cannot be merged into {base}: {error}. Merge it yourself, and name the result"
        ) from error
    stored = read_settings(base / "config.json")
    dtype = getattr(torch, str(stored.get("dtype") or stored.get("torch_dtype")), torch.float32)
    return merged.to(dtype)


def dequantise_fp8(directory: Path) -> "PreTrainedModel":
    """Return a model with FP8 weights in bf16."""
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    from rao_kedro.models.loading import open_model

    model = open_model(
        AutoModelForCausalLM,
        directory,
        dtype="auto",
        quantised=("fp8",),
        quantization_config=FineGrainedFP8Config(dequantize=True),
    )
    model._weight_conversions = None  # else saving quantises again
    return model
