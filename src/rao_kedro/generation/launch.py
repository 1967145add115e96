"""The only way into text generation from a node: runs the worker in a process of its own.

The model's memory is freed with that process. Imports neither torch nor transformers nor vLLM.
"""

import os
import sys
from pathlib import Path

from rao_kedro.config.generation import GenerationSpec
from rao_kedro.errors import InferenceError, RaoKedroError
from rao_kedro.workers import launching, run_worker


def generate(spec: GenerationSpec, in_process: bool = False) -> Path:
    """Generate text and wait for it; finished shards of a killed run are not generated again.

    Args:
        spec: What to generate.
        in_process: Run the worker inside this process: for tests.

    Returns:
        The parquet that was written, `spec.output_path`.

    Raises:
        InferenceError: The worker failed; the message ends with its last lines.
        BusyError: Another run is at work in the output's directory.
    """
    spec_path = spec.output_path.with_name("generation.json")
    command = [sys.executable, "-m", "rao_kedro.generation.worker", str(spec_path)]
    with launching(spec_path, spec.model_dump_json(indent=2)):
        if in_process:
            from rao_kedro.generation.worker import main

            main(str(spec_path))
            return spec.output_path
        try:
            run_worker(command, {**os.environ, "PYTHONUNBUFFERED": "1"})
        except RaoKedroError as error:
            raise InferenceError(
                f"text generation with {spec.model_dir}: {error}\n"
                f"Finished shards are kept in {spec.shards_dir}, so running again goes on from there."
            ) from error
    return spec.output_path
