"""Loads and saves checkpoints: plain Hugging Face directories with safetensors.

Under FSDP and ZeRO-3, transformers loads zeros on every process but the first, or a share of the weights on each, since
the engine fills them in when it wraps the module. Only the module that is trained is wrapped: its loader passes
`for_engine`. All other models get all weights on every process, compared with the checkpoint's files.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from rao_kedro.errors import ModelError
from rao_kedro.files import replacing_directory
from rao_kedro.models.checks import check_settings, check_weights, is_head, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(
    model_dir: str | Path, dtype: torch.dtype = torch.float32, for_engine: bool = False
) -> "PreTrainedModel":
    """Load a causal LM with its weights in `dtype`.

    Args:
        model_dir: A checkpoint directory.
        dtype: Precision of the weights, fp32 or bf16. What is trained starts from fp32.
        for_engine: The model is part of the module that accelerate prepares, where FSDP and ZeRO-3 fill in the weights.

    Raises:
        ModelError: transformers cannot open the checkpoint, it cannot be trained, or not all weights were loaded.
    """
    from transformers import AutoModelForCausalLM

    model = open_model(AutoModelForCausalLM, model_dir, for_engine=for_engine, dtype=dtype)
    _untie_configuration(model)
    return use_packed_attention(model)


def causal_lm_without_weights(model_dir: str | Path) -> "PreTrainedModel":
    """Open a causal LM whose weights have names and shapes but no values: a fast check that no weight is missing.

    Raises:
        ModelError: As from `load_causal_lm`.
    """
    from transformers import AutoModelForCausalLM

    return use_packed_attention(open_model(AutoModelForCausalLM, model_dir, without_values=True, device_map="meta"))


def load_reward_model(
    model_dir: str | Path, dtype: torch.dtype = torch.float32, for_engine: bool = False
) -> "PreTrainedModel":
    """Load a trained scalar sequence classifier.

    Args:
        model_dir: A checkpoint directory.
        dtype: As in `load_causal_lm`; the head is in fp32.
        for_engine: As in `load_causal_lm`.

    Raises:
        ModelError: transformers cannot open the checkpoint, it cannot be trained, it has no trained head or more than
            one label, or not all weights were loaded.
    """
    from transformers import AutoModelForSequenceClassification

    from rao_kedro.models.bf16_weights import round_weights

    model = open_model(AutoModelForSequenceClassification, model_dir, for_engine=for_engine, dtype=torch.float32)
    if dtype == torch.bfloat16:
        round_weights(model)
    if model.config.num_labels != 1:
        raise ModelError(f"the reward model in {model_dir} has {model.config.num_labels} labels; it must have one")
    return use_packed_attention(model)


def new_reward_model(model_dir: str | Path, for_engine: bool = False) -> "PreTrainedModel":
    """Load the model that a reward model starts from: a causal LM, which gets a random head, or a scalar classifier.

    Args:
        model_dir: A checkpoint directory.
        for_engine: As in `load_causal_lm`.

    Raises:
        ModelError: transformers cannot open the checkpoint, it cannot be trained, weights of its body are missing, or
            it is a classifier with more than one label.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_settings(model_dir)
    config = _open(AutoConfig.from_pretrained, model_dir)
    if any("SequenceClassification" in name for name in config.architectures or ()):
        return load_reward_model(model_dir, for_engine=for_engine)
    auto = AutoModelForSequenceClassification
    model = open_model(auto, model_dir, for_engine=for_engine, new_head=True, dtype=torch.float32, num_labels=1)
    return use_packed_attention(model)


def open_model(
    auto: Any,
    model_dir: str | Path,
    *,
    for_engine: bool = False,
    without_values: bool = False,
    quantised: Collection[str] = (),
    new_head: bool = False,
    **kwargs: object,
) -> Any:
    """Load a model, and refuse it if weights are missing.

    Args:
        auto: One of transformers' classes `AutoModelFor...`.
        model_dir: A checkpoint directory or a hub name.
        for_engine: As in `load_causal_lm`.
        without_values: Whether `kwargs` make a model without values, which cannot be compared with the files.
        quantised: Methods of quantisation that `kwargs` undo.
        new_head: Whether a model without a head gets a random one.
        **kwargs: Passed on to `from_pretrained`.

    Raises:
        ModelError: The model cannot be opened or trained, or its weights do not fit its configuration.
    """
    check_settings(model_dir, quantised)
    if (Path(model_dir) / "config.json").exists():
        weight_files(Path(model_dir))
    # The checks below name the weights that do not fit; the errors of transformers do not.
    kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    with nullcontext() if for_engine else _without_engine():
        model, found = _open(auto.from_pretrained, model_dir, **kwargs)
    body = model.base_model_prefix
    if "SequenceClassification" in type(model).__name__ and not new_head:
        _check_head(model, model_dir, found)
    check_weights(model_dir, body, found, any_head=new_head)
    if not (for_engine or without_values or quantised):
        refuse_other_weights(model, Path(model_dir))
    return model


@contextmanager
def _without_engine() -> Iterator[None]:
    """Hide FSDP and ZeRO-3 from transformers, which would leave out weights."""
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


COMPARED_VALUES = 2**14  # the first values of every tensor
PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}


def refuse_other_weights(model: "PreTrainedModel", directory: Path) -> None:
    """Compare the first values of every tensor of a model with the checkpoint's files.

    Tensors that are tied to others, quantised in the files, or not in the files are left out.

    Raises:
        ModelError: A tensor differs, or no tensor can be compared.
    """
    from safetensors import safe_open

    values = {name: value for name, value in model.state_dict().items() if name not in model.all_tied_weights_keys}
    compared = 0
    for path in weight_files(directory):
        with safe_open(path, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - it is not a dictionary
                value = values.get(_name_in(values, key, model.base_model_prefix))
                part = stored.get_slice(key)
                if value is None or part.get_dtype() not in PLAIN_DTYPES or not part.get_shape():
                    continue
                rows = max(1, COMPARED_VALUES * part.get_shape()[0] // max(1, value.numel()))
                if list(value.shape) != part.get_shape() or not _equal(part[:rows], value[:rows]):
                    raise ModelError(
                        f"{key} of the model loaded from {directory} differs from {path.name}, so this process would "
                        "score with other weights. Was the checkpoint written to meanwhile? If the error recurs, score "
                        "with one process (accelerate: one_gpu)"
                    )
                compared += 1
    if not compared:
        raise ModelError(
            f"the model loaded from {directory} cannot be compared with its files: they have no floating-point tensor "
            "with the name of one of its weights. Save it with `save_pretrained` of this version of transformers"
        )


def _name_in(values: Mapping[str, torch.Tensor], key: str, prefix: str) -> str:
    """Return the name in a model of a stored tensor, which may lack the backbone's prefix or have it in addition."""
    names = [key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")]
    return next((name for name in names if name in values), key)


def _equal(stored: torch.Tensor, loaded: torch.Tensor) -> bool:
    stored, loaded = stored.to(loaded.dtype), loaded.cpu()
    return bool(((stored == loaded) | (stored.isnan() & loaded.isnan())).all())


def _check_head(model: "PreTrainedModel", model_dir: str | Path, found: Mapping[str, Collection[str]]) -> None:
    missing, own = (
        sorted(name for name in found[keys] if is_head(name, model.base_model_prefix))
        for keys in ("missing_keys", "unexpected_keys")
    )
    if missing:
        raise ModelError(
            f"{model_dir} is not a reward model: it lacks {', '.join(missing[:3])}. Train a reward model from it with "
            "the pipeline `reward_modeling`, or name an AutoModelForSequenceClassification"
        )
    if own := [name for name in own if not name.startswith("lm_head.") and "lora_" not in name]:
        raise ModelError(
            f"the reward model in {model_dir} has weights that {type(model).__name__} does not have: "
            f"{', '.join(own[:3])}. Only its own code, which is not run, would give the scores that its authors report"
        )


def _open(loader: Callable[..., Any], model_dir: str | Path, **kwargs: object) -> Any:
    try:
        return loader(str(model_dir), trust_remote_code=False, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"no model could be loaded from {model_dir}: {error}") from error


def use_packed_attention(model: "PreTrainedModel") -> "PreTrainedModel":
    """Set the attention of a model to the packed attention, if its code allows that."""
    from rao_kedro.models.attention import PACKED

    if model._supports_attention_backend and model._supports_sdpa:  # without a layout it computes SDPA
        model.set_attn_implementation(PACKED)
    return model


def save_checkpoint(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    directory: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Replace a directory by a checkpoint that plain transformers opens.

    Args:
        model: The model.
        tokenizer: Saved with it, if there is one.
        directory: The checkpoint to write.
        weights: As in `write_checkpoint`.
    """
    with replacing_directory(directory) as partial:
        write_checkpoint(model, tokenizer, partial, weights)


def write_checkpoint(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    directory: Path,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint file by file into a directory that no other process reads yet.

    Args:
        model: The model.
        tokenizer: Saved with it, if there is one.
        directory: The directory; made if it does not exist.
        weights: Gathered state dict of a module whose attribute `model` is the model, for sharded training, which
            leaves each process a part of the weights; None takes the model's own.
    """
    state_dict = None
    if weights is not None:
        own_names = {name.removeprefix("model."): value for name, value in weights.items()}
        tied = set(model.all_tied_weights_keys)  # gathering has made separate tensors of them
        state_dict = {name: value for name, value in own_names.items() if name not in tied}
    if weights is None:  # the tensors of a sharded model cannot be compared; they were when it was loaded
        _untie_configuration(model)
    model.save_pretrained(directory, state_dict=state_dict)
    if state_dict is not None:  # whose dtype need not be that of the model
        model.config.dtype = next(value.dtype for value in state_dict.values() if value.is_floating_point())
        model.config.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _untie_configuration(model: "PreTrainedModel") -> None:
    """Set `tie_word_embeddings` to False where the head and the embeddings are different tensors.

    Otherwise sharding would tie them again, and an engine that follows the configuration would drop the head.
    """
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
