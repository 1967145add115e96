"""The only way into answering from a node: runs the worker in a process of its own. Imports nothing heavy."""

import os
import sys

from rao_kedro.errors import InferenceError, RaoKedroError
from rao_kedro.files import write_text
from rao_kedro.processes import run_worker
from rao_kedro.schemas.benchmarks import PolicyAnswersSpec


def answer(spec: PolicyAnswersSpec, in_process: bool = False) -> None:
    """Let a policy write all that the evaluation asks for, and wait for it.

    Args:
        spec: What it answers.
        in_process: Run the worker inside this process: for tests.

    Raises:
        InferenceError: The worker failed; the message is its own.
    """
    spec.workspace.mkdir(parents=True, exist_ok=True)
    spec.held_out.shards_dir.mkdir(parents=True, exist_ok=True)
    path = spec.workspace / "answers.json"
    write_text(path, spec.model_dump_json(indent=2))
    if in_process:
        from rao_kedro.evals.answers import main

        main(str(path))
        return
    try:
        run_worker([sys.executable, "-m", "rao_kedro.evals.answers", str(path)], os.environ | {"PYTHONUNBUFFERED": "1"})
    except RaoKedroError as error:
        raise InferenceError(
            f"answers of {spec.held_out.model_dir}: {error}\nWhat is finished is kept, so running again goes on there."
        ) from error
