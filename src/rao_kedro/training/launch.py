"""The only way into training from a node: writes the task's spec and runs it under `accelerate launch`.

Imports neither torch nor transformers, so that `kedro` commands start fast.
"""

import importlib
import os
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd

from rao_kedro.errors import RaoKedroError, TrainingError
from rao_kedro.models.identity import combined_hash, content_hash, file_hash
from rao_kedro.processes import launching, run_worker
from rao_kedro.schemas.specs import AlignmentSpec, PPOSpec, TrainingSpec, WorkerSpec


def launch(task: str, spec: WorkerSpec, accelerate_config: Path | None, metric_prefix: str = "") -> None:
    """Run a task in processes of its own, and wait.

    Where the environment variable RAO_KEDRO_LAUNCHER names a program, that is given the command to run it on every
    machine.

    Args:
        task: A worker module of `rao_kedro.training`: sft, reward, alignment, ppo, reference, annotate or
            score_policy.
        spec: What the worker is to do; written to `<workspace>/spec.json`.
        accelerate_config: The accelerate YAML file; None runs the task inside this process.
        metric_prefix: Put before the names of metrics in MLflow.

    Raises:
        TrainingError: The worker failed; the message is its own.
        BusyError: Another run is at work in the workspace.
    """
    spec_path, module = spec.workspace / "spec.json", f"rao_kedro.training.{task}"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config)]
    launcher = shlex.split(os.environ.get("RAO_KEDRO_LAUNCHER", ""))
    with launching(spec_path, spec.model_dump_json(indent=2)):
        if isinstance(spec, TrainingSpec):
            _discard_checkpoint_of_another_run(spec)
        if accelerate_config is None:
            importlib.import_module(module).main(str(spec_path))
            return
        try:
            run_worker([*launcher, *command, "-m", module, str(spec_path)], _environment(metric_prefix))
        except RaoKedroError as error:
            raise TrainingError(f"{task}: {error}") from error


def _discard_checkpoint_of_another_run(spec: TrainingSpec) -> None:
    """Let a run resume only from a checkpoint that the same parameters and the same inputs made."""
    tables = [spec.groups_path, *([spec.reference_path] if isinstance(spec, AlignmentSpec | PPOSpec) else [])]
    models = [spec.model_dir, *([spec.reward_model_dir] if isinstance(spec, PPOSpec) else [])]
    run = combined_hash(spec.model_dump_json(), *map(content_hash, models), *map(file_hash, tables))
    made_by = spec.workspace / "checkpoints_made_by.txt"
    if not made_by.exists() or made_by.read_text() != run:
        shutil.rmtree(spec.workspace / "checkpoints", ignore_errors=True)
        made_by.write_text(run)


# Most activations take megabytes: keep freed memory instead of giving it back to the system at once, which costs a CPU
# run 10-20 % of its time. What takes more than 32 MiB (logits, the embedding's gradient) goes back, since it fragments
# the heap: 1.6 GiB after 20 steps of the base run (glibc; a user's own settings win). And oneDNN and torch
# keep the scratch memory of the last 1024 matrix shapes each; packs have all lengths, so that it grew with every step.
CPU_MEMORY_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
    "LRU_CACHE_CAPACITY": "16",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",
}


def _environment(metric_prefix: str) -> dict[str, str]:
    environment = CPU_MEMORY_SETTINGS | dict(os.environ, RAO_KEDRO_METRIC_PREFIX=metric_prefix, PYTHONUNBUFFERED="1")
    environment.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # checkpoints are local: bars only fill the log
    # Only an active run is passed on: asking mlflow for one would create one.
    if mlflow := sys.modules.get("mlflow"):
        run = mlflow.active_run()
        if run is not None:
            environment |= {"MLFLOW_RUN_ID": run.info.run_id, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    return environment


def read_training_log(workspace: Path) -> pd.DataFrame:
    """Return the training log of a finished run: one row per step, and one per evaluation with `eval_*` columns."""
    return pd.read_json(workspace / "training_log.jsonl", lines=True)
