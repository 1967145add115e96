"""Loads, identifies and saves checkpoints: plain Hugging Face directories with safetensors."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    return _packed(_opened(AutoModelForCausalLM.from_pretrained, model_dir, dtype=dtype, use_safetensors=True))


def load_reward_model(model_dir: str | Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a trained scalar sequence classifier.

    Raises:
        ModelError: Nothing that transformers can open is there, it has no trained head, another one than transformers
            gives it, or more than one label.
    """
    from transformers import AutoModelForSequenceClassification

    loader = AutoModelForSequenceClassification.from_pretrained
    model, found = _opened(loader, model_dir, dtype=dtype, use_safetensors=True, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{model_dir} is no reward model: it lacks {', '.join(missing[:3])}. Train one from it with the pipeline "
            "`reward_modeling`, or name an AutoModelForSequenceClassification"
        )
    of_the_body = (f"{model.base_model_prefix}.", "lm_head.")
    if own := sorted(name for name in found["unexpected_keys"] if not name.startswith(of_the_body)):
        raise ModelError(
            f"the reward model in {model_dir} has weights that {type(model).__name__} does not have: "
            f"{', '.join(own[:3])}. Without its own code, which is not run here, its scores would not be its authors'"
        )
    if model.config.num_labels != 1:
        raise ModelError(f"the reward model in {model_dir} has {model.config.num_labels} labels; it must have one")
    return _packed(model)


def new_reward_model(model_dir: str | Path) -> nn.Module:
    """Load what a reward model starts from: a causal LM, which gets a new random head, or a scalar classifier.

    Raises:
        ModelError: Nothing that transformers can open is there, or a classifier with more than one label.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = _opened(AutoConfig.from_pretrained, model_dir)
    if any("SequenceClassification" in name for name in config.architectures or ()):
        return load_reward_model(model_dir)
    loader = AutoModelForSequenceClassification.from_pretrained
    return _packed(_opened(loader, model_dir, dtype=torch.float32, use_safetensors=True, num_labels=1))


def _opened(loader: Callable[..., Any], model_dir: str | Path, **kwargs: object) -> Any:
    try:
        return loader(str(model_dir), **kwargs)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model could be loaded from {model_dir}: {error}") from error


def _packed(model: nn.Module) -> nn.Module:
    """Let a model use the packed attention, where it can."""
    from rao_kedro.models.attention import PACKED

    if model._supports_attention_backend and model._supports_sdpa:  # which it is where nothing is packed
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
