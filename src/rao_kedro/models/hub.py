"""Checkpoints by name: a directory, or a model of the hub. Imports neither torch nor transformers."""

from pathlib import Path

from rao_kedro.errors import ModelError

CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def local_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """Return the directory of a checkpoint, downloaded if `name` is not a directory.

    Raises:
        ModelError: It is neither a directory nor a model of the hub that can be had now.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=CHECKPOINT_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{str(name)!r} is neither a directory nor a model that can be had from the hub now: correct the name, or "
            f"log in with `hf auth login` if the model is gated ({error})"
        ) from error
