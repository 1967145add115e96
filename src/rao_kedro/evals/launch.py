"""The only way into answering from a node: runs the worker in a process of its own. Imports nothing heavy."""

import importlib
import os
import sys

from rao_kedro.errors import InferenceError, RaoKedroError
from rao_kedro.evals.specs import PolicyAnswersSpec, ServedAnswersSpec
from rao_kedro.workers import launching, run_worker


def answer(spec: PolicyAnswersSpec | ServedAnswersSpec, in_process: bool = False) -> None:
    """Let a model write all that the evaluation asks for, and wait for it.

    Args:
        spec: What it answers.
        in_process: Run the worker inside this process: for tests.

    Raises:
        InferenceError: The worker failed; the message is its own.
        BusyError: Another run is at work in the workspace.
    """
    module = "policy_answers" if isinstance(spec, PolicyAnswersSpec) else "served_answers"
    path = spec.workspace / f"{module}.json"
    module = f"rao_kedro.evals.{module}"
    quiet = {"TQDM_DISABLE": "1"}  # the harness has a bar per subject of MMLU
    with launching(path, spec.model_dump_json(indent=2)):
        if in_process:
            importlib.import_module(module).main(str(path))
            return
        try:
            run_worker([sys.executable, "-m", module, str(path)], quiet | os.environ | {"PYTHONUNBUFFERED": "1"})
        except RaoKedroError as error:
            raise InferenceError(
                f"answers of {spec.method}: {error}\nWhat is finished is kept, so running again goes on there."
            ) from error
