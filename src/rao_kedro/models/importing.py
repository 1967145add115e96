"""Brings the base model in as a plain checkpoint: from an installed package's GGUF, a directory, or the hub."""

from pathlib import Path

from rao_kedro.errors import ModelError
from rao_kedro.files import replace_directory
from rao_kedro.models.chat import load_tokenizer
from rao_kedro.models.gguf import convert_gguf, find_packaged_gguf
from rao_kedro.models.hub import CHECKPOINT_FILES, local_checkpoint
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import ModelImportSpec


def main(spec_path: str) -> None:
    """Write the checkpoint that a spec file asks for.

    Raises:
        ModelError: There is no such model, or it has no tokenizer or chat template.
    """
    spec = ModelImportSpec.model_validate_json(Path(spec_path).read_text())
    if spec.model.source == "gguf_package":
        convert_gguf(find_packaged_gguf(spec.model.name), None, spec.output_dir)
        return
    if spec.model.source == "tiny_random":
        build_tiny_checkpoint(spec.output_dir)
        return
    link_checkpoint(local_checkpoint(spec.model.name, spec.model.revision), spec.output_dir)


def link_checkpoint(source: Path, target: Path) -> None:
    """Make `target` a checkpoint of links to the files of `source`: weights of many GB are not copied.

    Raises:
        ModelError: `source` is not a checkpoint with a tokenizer that can chat; says what is missing.
    """
    files = sorted(path for pattern in CHECKPOINT_FILES for path in source.glob(pattern))
    if not (source / "config.json").exists() or not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(f"{source} is not a checkpoint: it needs a config.json and *.safetensors files")
    load_tokenizer(source)
    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for path in files:
        link = partial / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    replace_directory(partial, target)


if __name__ == "__main__":
    worker_main(main)
