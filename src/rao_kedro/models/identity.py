"""What a checkpoint or a table is, as a short content hash. Imports the standard library only."""

import hashlib
from functools import cache
from pathlib import Path

from rao_kedro.errors import ModelError


def content_hash(model_dir: str | Path) -> str:
    """Return a short hash of what a checkpoint computes: its weights, configuration, tokenizer and chat template.

    Raises:
        ModelError: The directory holds no safetensors file.
    """
    directory = Path(model_dir)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{directory} holds no *.safetensors file, so it is not a checkpoint that can be used here")
    digest = hashlib.sha256()
    others = [directory / name for name in ("config.json", "tokenizer.json", "chat_template.jinja")]
    for path in [*weights, *filter(Path.exists, others)]:
        digest.update(path.name.encode() + _hash_of_state(path, path.stat().st_size, path.stat().st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _hash_of_state(path: Path, size: int, changed: int) -> bytes:
    """Return the hash of a file that may be large and is asked for often; read again once it was changed."""
    return file_hash(path)


def file_hash(path: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def combined_hash(*parts: str | bytes) -> str:
    """Return a short hash of several parts; order counts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]
