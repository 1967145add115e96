"""Refuses checkpoints that training, scoring or generation cannot use, and says what to do.

Reads the configuration, and the names of files and weights. Knows nothing of chat templates. Imports nothing heavy.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
QUANTISED = ("quantization_config", "compression_config", "quantization")


def check_settings(model_dir: str | Path, quantised: Collection[str] = ()) -> None:
    """Refuse a checkpoint whose configuration shows that it cannot be used.

    Args:
        model_dir: A checkpoint. A path that is not a directory, or has no configuration, is not checked.
        quantised: Methods of quantisation that the caller can undo.

    Raises:
        ModelError: The checkpoint is an adapter or contains one, is quantised, needs its own Python code, or has a
            padding token without an embedding.
    """
    directory = Path(model_dir)
    if (directory / ADAPTER).exists():
        _refuse_adapter(directory)
    if not (directory / "config.json").exists():
        return
    settings = read_settings(directory / "config.json")
    if (method := quantisation(settings)) and method not in quantised:
        also = "; as the base model, FP8 weights are dequantised at import" if method == "fp8" else ""
        raise ModelError(
            f"{directory} is quantised ({method}, see its config.json), and quantised weights can be neither trained "
            f"nor published: name the model that it was made from, or dequantise it and save the result{also}"
        )
    if "auto_map" in settings:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if settings.get("model_type") not in CONFIG_MAPPING_NAMES:
            raise ModelError(
                f"{directory} needs Python code of its own (auto_map in its config.json), which is not run: name a "
                "model whose architecture is in transformers"
            )
    _check_padding(directory)


def _refuse_adapter(directory: Path) -> None:
    base = read_settings(directory / ADAPTER).get("base_model_name_or_path")
    if (directory / "config.json").exists():
        raise ModelError(
            f"{directory} contains a model and an adapter ({ADAPTER}), and it is unknown whether the weights contain "
            "the adapter: if they do, move the adapter's files away; if not, name a directory with the adapter alone "
            "as the base model, and the import merges it"
        )
    raise ModelError(
        f"{directory} is an adapter of {base!r}, not a model: merge it with peft's merge_and_unload() and save the "
        "result (an adapter named as the base model is merged at import)"
    )


def _check_padding(directory: Path) -> None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(directory), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"no model could be loaded from {directory}: {error}") from error
    for part in (config, config.get_text_config()):
        padding, rows = getattr(part, "pad_token_id", None), getattr(part, "vocab_size", None)
        if padding is not None and rows is not None and padding >= rows:
            raise ModelError(
                f"the padding token of {directory} is {padding} (pad_token_id in its config.json), but the model has "
                f"embeddings of the tokens 0 to {rows - 1} only: set it to one of these, or remove it"
            )


def check_causal_lm(directory: Path) -> None:
    """Refuse a checkpoint whose configuration names no causal LM.

    Raises:
        ModelError: The checkpoint is a classifier, an encoder, or another model without a head over the vocabulary.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = read_settings(directory / "config.json").get("architectures") or []
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    causal = {name for entry in known for name in ([entry] if isinstance(entry, str) else entry)}
    if names and not causal & {*names}:
        raise ModelError(
            f"{directory} is a {', '.join(names)} (architectures in its config.json), not a causal language model, so "
            "it cannot be the base model: name the language model that it was made from"
        )


def check_tokens(tokenizer: "PreTrainedTokenizerBase", directory: Path) -> None:
    """Refuse a tokenizer with tokens for which the model has no embedding.

    Special tokens that neither the chat template nor a role (bos, eos, pad, unk) uses need no embedding: texts never
    contain them, since the spelling of a special token in a text is encoded as text. Gemma's image token is an example.

    Args:
        tokenizer: The tokenizer.
        directory: The checkpoint of its model.

    Raises:
        ModelError: Such a token exists; the message says how to give it an embedding.
    """
    from transformers import AutoConfig

    rows = AutoConfig.from_pretrained(str(directory), trust_remote_code=False).get_text_config().vocab_size
    beyond = {token: id_ for token, id_ in tokenizer.get_vocab().items() if id_ >= rows}
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    roles = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    used = sorted(
        (id_, token)
        for token, id_ in beyond.items()
        if token not in special or token in roles or token in str(tokenizer.chat_template)
    )
    if used:
        shown = ", ".join(f"{token!r} ({id_})" for id_, token in used[:3])
        raise ModelError(
            f"the tokenizer of {directory} has {len(used)} tokens without an embedding in the model, {shown}"
            f"{' ...' if len(used) > 3 else ''}: the model has {rows} embeddings. Use the tokenizer that belongs to "
            "the model, or call model.resize_token_embeddings(len(tokenizer)) and save the model again"
        )


# Masks and frequencies that older versions of transformers stored in checkpoints, and newer versions compute.
CONSTANTS = re.compile(r"\.masked_bias$|\battn\.bias$|\battention\.bias$|rotary_emb\.inv_freq$")


def weight_files(directory: Path) -> list[Path]:
    """Return the files of a checkpoint's weights.

    Raises:
        ModelError: There are no weights, a file that the index names is missing, or a file was not downloaded.
    """
    if (directory / "model.safetensors").exists():
        files = [directory / "model.safetensors"]
    elif (directory / INDEX).exists():
        files = [directory / name for name in sorted({*read_settings(directory / INDEX)["weight_map"].values()})]
    elif pickles := sorted(path for pattern in PICKLES for path in directory.glob(pattern)):
        raise ModelError(
            f"the weights of {directory} are pickled ({pickles[0].name}), and loading a pickle runs its code: if you "
            "trust it, load the model with transformers, save it with model.save_pretrained, and name the new directory"
        )
    else:
        raise ModelError(
            f"{directory} is not a checkpoint: it needs a config.json and *.safetensors files (model.safetensors, or "
            f"those of {INDEX})"
        )
    if missing := [path.name for path in files if not path.exists()]:
        raise ModelError(
            f"{directory} lacks {len(missing)} of {len(files)} weight files that {INDEX} names: "
            f"{', '.join(missing[:3])}. Download or copy them again"
        )
    for path in files:
        with path.open("rb") as file:
            if file.read(11) == b"version htt":
                raise ModelError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in {directory}")
    return files


def check_weights(
    model_dir: str | Path, body: str, found: Mapping[str, Collection[Any]], any_head: bool = False
) -> None:
    """Refuse weights that do not fill a model; transformers would initialise missing weights at random.

    Args:
        model_dir: The checkpoint.
        body: Prefix of the names of all weights except the head's.
        found: The `output_loading_info` of transformers.
        any_head: Whether the head may be missing.

    Raises:
        ModelError: Weights are missing, have another shape, or have no place in the model's body.
    """
    where = f"the weights in {model_dir} do not belong to its config.json"
    if wrong := sorted(found["mismatched_keys"]):
        name, stored, expected = wrong[0]
        raise ModelError(
            f"{where}: {name} has the shape {[*stored]}, expected {[*expected]} ({len(wrong)} such weights)"
        )
    if missing := sorted(name for name in found["missing_keys"] if not (any_head and is_head(name, body))):
        tied = " (tie_word_embeddings: true if the head shares the embeddings)" if "lm_head.weight" in missing else ""
        raise ModelError(
            f"{where}: {len(missing)} are missing, {', '.join(missing[:3])}, and would be random. Download or save the "
            f"checkpoint again, or correct config.json{tied}"
        )
    left = sorted(n for n in found["unexpected_keys"] if not is_head(n, body) or "lora_" in n)
    if left := [name for name in left if not CONSTANTS.search(name)]:
        raise ModelError(
            f"{where}: {len(left)} of them have no place in the model, {', '.join(left[:3])}, and would be ignored. "
            "Correct config.json, merge adapters first, or save the checkpoint again"
        )


def is_head(name: str, body: str) -> bool:
    """Return whether a weight is outside the model's body, or belongs to its pooler."""
    return not name.startswith(f"{body}.") or ".pooler." in name


def quantisation(settings: Mapping[str, Any]) -> str | None:
    """Return the method of a model's quantisation; None if it is not quantised."""
    found = next((settings[name] for name in QUANTISED if settings.get(name)), None)
    if found is None:
        return None
    old = "bitsandbytes" if found.get("load_in_4bit") or found.get("load_in_8bit") else f"{found.get('bits')} bits"
    return str(found.get("quant_method") or old)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        ModelError: The file is not a JSON object.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}): download or save it again") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{path} is not a JSON object: download or save it again")
    return settings
