"""Loads, identifies and saves checkpoints: plain Hugging Face directories with safetensors."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from rao_kedro.errors import ModelError
from rao_kedro.files import replace_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(model_dir: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a causal LM with its weights in `dtype`.

    Args:
        model_dir: A checkpoint directory or a hub name.
        dtype: fp32 for master weights; bf16 compute is autocast's business.

    Raises:
        ModelError: Nothing that transformers can open is there.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM.from_pretrained, model_dir, dtype)


def load_reward_model(model_dir: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a scalar sequence classifier; a causal LM's checkpoint gets a new, randomly initialised head.

    Raises:
        ModelError: Nothing that transformers can open is there, or its head has more than one label.
    """
    from transformers import AutoModelForSequenceClassification

    model = _load(AutoModelForSequenceClassification.from_pretrained, model_dir, dtype, num_labels=1)
    if model.config.num_labels != 1:
        raise ModelError(f"the reward model in {model_dir} has {model.config.num_labels} labels; it must have one")
    return model


def _load(loader: Callable[..., nn.Module], model_dir: str | Path, dtype: torch.dtype, **kwargs: object) -> nn.Module:
    from rao_kedro.models.attention import PACKED

    try:
        model = loader(str(model_dir), dtype=dtype, attn_implementation="sdpa", use_safetensors=True, **kwargs)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model could be loaded from {model_dir}: {error}") from error
    if model._supports_attention_backend:
        model.set_attn_implementation(PACKED)
    return model


def save_checkpoint(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    directory: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint that plain transformers opens; a reader sees the old one or the new one, never half of it.

    Args:
        model: The model.
        tokenizer: Saved beside it.
        directory: Where to.
        weights: The gathered state dict of a module that holds the model as its attribute `model`, where sharded
            training leaves the model only a part of its own; None takes the model's.
    """
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    state_dict = None
    if weights is not None:
        own_names = {name.removeprefix("model."): value for name, value in weights.items()}
        tied = set(model.all_tied_weights_keys)  # gathering makes them tensors of their own
        state_dict = {name: value for name, value in own_names.items() if name not in tied}
    model.save_pretrained(partial, state_dict=state_dict)
    tokenizer.save_pretrained(partial)
    replace_directory(partial, directory)
