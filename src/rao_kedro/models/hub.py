"""Finds a checkpoint by name: a directory, or a model of the hub. Imports neither torch nor transformers."""

from collections.abc import Sequence
from pathlib import Path

from rao_kedro.errors import ModelError

# Configuration, tokenizer and chat templates: no weights, no pickles, no code.
SETTINGS_FILES = ["*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.tiktoken", "*.txt"]
CHECKPOINT_FILES = [*SETTINGS_FILES, "*.safetensors"]
# The same weights in other forms.
LEFT_OUT = ["consolidated*", "original/*", "onnx/*", "*/*.safetensors"]


def local_checkpoint(name: str | Path, revision: str | None = None, files: Sequence[str] = CHECKPOINT_FILES) -> Path:
    """Return the directory of a checkpoint, which is downloaded if `name` is not a directory.

    Args:
        name: A directory or a hub name.
        revision: A hub revision.
        files: Patterns of the files to download.

    Raises:
        ModelError: The name is neither a directory nor a model that can be downloaded now.
    """
    if (directory := Path(name).expanduser()).is_dir():
        return directory
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(str(name), revision=revision, allow_patterns=list(files), ignore_patterns=LEFT_OUT)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{str(name)!r} is neither a directory nor a model that can be downloaded from the hub now: correct the "
            f"name, or log in with `hf auth login` if the model is gated ({error})"
        ) from error
