"""The way in from a node: makes the base model's checkpoint in a process of its own. Imports nothing heavy."""

import os
import sys
from pathlib import Path

from rao_kedro.config.specs import ModelImportSpec, ModelParameters
from rao_kedro.errors import ModelError, RaoKedroError
from rao_kedro.workers import launching, run_worker


def import_model(model: ModelParameters, workspace: Path, in_process: bool = False) -> Path:
    """Bring a model in as a plain checkpoint.

    Args:
        model: Where it comes from.
        workspace: Where it is built.
        in_process: Do it inside this process: for tests.

    Returns:
        The finished directory, inside `workspace`.

    Raises:
        ModelError: There is no such model, or it has no tokenizer or chat template.
        BusyError: Another run is at work in the workspace.
    """
    spec = ModelImportSpec(model=model, output_dir=workspace / "model")
    spec_path = workspace / "spec.json"
    with launching(spec_path, spec.model_dump_json(indent=2)):
        if in_process:
            from rao_kedro.models.importing import main

            main(str(spec_path))
            return spec.output_dir
        try:
            run_worker([sys.executable, "-m", "rao_kedro.models.importing", str(spec_path)], os.environ)
        except RaoKedroError as error:
            raise ModelError(f"base model: {error}") from error
    return spec.output_dir
