"""Loads and saves checkpoints: plain Hugging Face directories with safetensors.

Under FSDP and ZeRO-3, transformers leaves the weights to the engine: zeros on every process but the first, or one
share each. That is right for the module that the engine then wraps, and for no other: whoever trains says so, and
everybody else gets all weights on every process, checked against the checkpoint's files.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rao_kedro.errors import ModelError
from rao_kedro.files import replace_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(model_dir: str | Path, dtype: torch.dtype = torch.float32, for_engine: bool = False) -> nn.Module:
    """Load a causal LM with its weights in `dtype`.

    Args:
        model_dir: A checkpoint directory.
        dtype: fp32 for master weights; bf16 compute is autocast's business.
        for_engine: The model is part of the module that accelerate prepares: FSDP and ZeRO-3 then give it its weights.

    Raises:
        ModelError: Nothing that transformers can open is there, or not all weights were loaded.
    """
    from transformers import AutoModelForCausalLM

    loader = AutoModelForCausalLM.from_pretrained
    return _packed(_loaded(loader, model_dir, for_engine, dtype=dtype, use_safetensors=True))


def load_reward_model(model_dir: str | Path, dtype: torch.dtype = torch.float32, for_engine: bool = False) -> nn.Module:
    """Load a trained scalar sequence classifier.

    Args:
        model_dir: A checkpoint directory.
        dtype: As of `load_causal_lm`.
        for_engine: As of `load_causal_lm`.

    Raises:
        ModelError: Nothing that transformers can open is there, it has no trained head, or more than one label; or not
            all weights were loaded.
    """
    from transformers import AutoModelForSequenceClassification

    loader = AutoModelForSequenceClassification.from_pretrained
    how = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    model, found = _loaded(loader, model_dir, for_engine, **how)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{model_dir} is no reward model: it lacks {', '.join(missing[:3])}. Train one from it with the pipeline "
            "`reward_modeling`, or name an AutoModelForSequenceClassification"
        )
    if model.config.num_labels != 1:
        raise ModelError(f"the reward model in {model_dir} has {model.config.num_labels} labels; it must have one")
    return _packed(model)


def new_reward_model(model_dir: str | Path, for_engine: bool = False) -> nn.Module:
    """Load what a reward model starts from: a causal LM, which gets a new random head, or a scalar classifier.

    Args:
        model_dir: A checkpoint directory.
        for_engine: As of `load_causal_lm`.

    Raises:
        ModelError: Nothing that transformers can open is there, or a classifier with more than one label.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = _opened(AutoConfig.from_pretrained, model_dir)
    if any("SequenceClassification" in name for name in config.architectures or ()):
        return load_reward_model(model_dir, for_engine=for_engine)
    loader = AutoModelForSequenceClassification.from_pretrained
    how = {"dtype": torch.float32, "use_safetensors": True, "num_labels": 1}
    return _packed(_loaded(loader, model_dir, for_engine, **how))


def _loaded(loader: Callable[..., Any], model_dir: str | Path, for_engine: bool, **kwargs: object) -> Any:
    if for_engine:
        return _opened(loader, model_dir, **kwargs)
    with _without_engine():
        loaded = _opened(loader, model_dir, **kwargs)
    refuse_other_weights(loaded[0] if isinstance(loaded, tuple) else loaded, Path(model_dir))
    return loaded


@contextmanager
def _without_engine() -> Iterator[None]:
    """Keep from transformers that FSDP or ZeRO-3 is at work, which makes it leave weights out."""
    from transformers.integrations import deepspeed

    fsdp, zero3 = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING"), deepspeed._hf_deepspeed_config_weak_ref
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = zero3
        if fsdp is None:
            del os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"]
        else:
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = fsdp


COMPARED_VALUES = 2**14  # of every tensor: the first ones
PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}


def refuse_other_weights(model: "PreTrainedModel", directory: Path) -> None:
    """Compare the start of every tensor of a model with what the checkpoint's files hold.

    Left out are tensors that are tied to others, whose names the files do not have, or that are quantised there.

    Raises:
        ModelError: A tensor differs, or none can be compared.
    """
    from safetensors import safe_open

    values = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    compared = 0
    for path in _weight_files(directory):
        with safe_open(path, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - it is no dictionary
                value = values.get(_name_in(values, key, model.base_model_prefix))
                part = stored.get_slice(key)
                if value is None or part.get_dtype() not in PLAIN_DTYPES or not part.get_shape():
                    continue
                rows = max(1, COMPARED_VALUES * part.get_shape()[0] // max(1, value.numel()))
                if list(value.shape) != part.get_shape() or not _equal(part[:rows], value[:rows]):
                    raise ModelError(
                        f"{key} of the model loaded from {directory} is not what {path.name} holds, so that this "
                        "process would score with other weights: was the checkpoint written to meanwhile? If it comes "
                        "back, score with one process (accelerate: one_gpu)"
                    )
                compared += 1
    if not compared:
        raise ModelError(
            f"no weight of the model loaded from {directory} has a name or type of its files there, so it cannot be "
            "checked: save it with `save_pretrained` of this version of transformers"
        )


def _weight_files(directory: Path) -> list[Path]:
    """Return the files that transformers loads: others may lie beside them."""
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.exists():
        return [whole]
    return [directory / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def _name_in(values: Mapping[str, torch.Tensor], key: str, prefix: str) -> str:
    """Return a stored tensor's name in a model: a backbone's files lack its prefix, another task's have one more."""
    names = [key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")]
    return next((name for name in names if name in values), key)


def _equal(stored: torch.Tensor, loaded: torch.Tensor) -> bool:
    stored, loaded = stored.to(loaded.dtype), loaded.cpu()
    return bool(((stored == loaded) | (stored.isnan() & loaded.isnan())).all())


def _opened(loader: Callable[..., Any], model_dir: str | Path, **kwargs: object) -> Any:
    try:
        return loader(str(model_dir), **kwargs)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model could be loaded from {model_dir}: {error}") from error


def _packed(model: nn.Module) -> nn.Module:
    """Let a model use the packed attention, where it can."""
    from rao_kedro.models.attention import PACKED

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
