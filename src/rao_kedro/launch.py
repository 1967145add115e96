"""The only way into training from a node: writes the task's spec and runs it under `accelerate launch`.

What a workspace holds already, finished, of the same spec and inputs is not computed again. Imports neither torch nor
transformers, so that `kedro` commands start fast.
"""

import importlib
import json
import logging
import os
import shlex
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from rao_kedro.config.specs import AnnotationSpec, PolicyScoringSpec, ScoringSpec, TrainingSpec, WorkerSpec
from rao_kedro.errors import RaoKedroError, TrainingError
from rao_kedro.files import write_text
from rao_kedro.identity import combined_hash, flatten, named_files, path_hash
from rao_kedro.workers import launching, run_worker

logger = logging.getLogger(__name__)

WORKERS = {
    "sft": "rao_kedro.training.tasks.sft",
    "reward": "rao_kedro.training.tasks.reward_model",
    "alignment": "rao_kedro.training.tasks.alignment",
    "ppo": "rao_kedro.training.tasks.ppo",
    "reference": "rao_kedro.scoring.reference",
    "annotate": "rao_kedro.rewards.annotate",
    "score_policy": "rao_kedro.evals.score_policy",
}

CHECKPOINTS = "checkpoints"
TRAINING_LOG = "training_log.jsonl"
WRITTEN = ("workspace", "output_path", "held_out_path", "cache_dir")  # paths of specs that are no inputs


def launch(task: str, spec: WorkerSpec, accelerate_config: Path | None, metric_prefix: str = "") -> None:
    """Run a task in processes of its own, and wait; return at once where its outputs are those of a finished run.

    Where the environment variable RAO_KEDRO_LAUNCHER names a program, that is given the command to run it on every
    machine.

    Args:
        task: A name of `WORKERS`.
        spec: What the worker is to do; written to `<workspace>/spec.json`.
        accelerate_config: The accelerate YAML file; None runs the task inside this process.
        metric_prefix: Put before the names of metrics in MLflow.

    Raises:
        TrainingError: The worker failed; the message is its own.
        BusyError: Another run is at work in the workspace.
    """
    spec_path, module = spec.workspace / "spec.json", WORKERS[task]
    with launching(spec_path, spec.model_dump_json(indent=2)):
        run = _key(task, spec)
        if _finished_run(spec) == run:
            logger.info("%s is finished in %s, from the same parameters and inputs", task, spec.workspace)
            return
        _marker(spec).unlink(missing_ok=True)
        _discard_checkpoint_of_another_run(spec.workspace, run)
        if accelerate_config is None:
            importlib.import_module(module).main(str(spec_path))
        else:
            _run_on_every_process(task, module, spec_path, accelerate_config, metric_prefix)
        outputs = {str(path): path_hash(path) for path in _outputs(spec)}
        write_text(_marker(spec), json.dumps({"run": run, "outputs": outputs}, indent=2))
        shutil.rmtree(spec.workspace / CHECKPOINTS, ignore_errors=True)  # last: a kill before this goes on from them


def _run_on_every_process(task: str, module: str, spec_path: Path, accelerate_config: Path, metric_prefix: str) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(accelerate_config)]
    launcher = shlex.split(os.environ.get("RAO_KEDRO_LAUNCHER", ""))
    try:
        run_worker([*launcher, *command, "-m", module, str(spec_path)], _environment(metric_prefix))
    except RaoKedroError as error:
        raise TrainingError(f"{task}: {error}") from error


def _key(task: str, spec: WorkerSpec) -> str:
    """Return a hash of all that a run depends on: its parameters, the content of its inputs, this package's version."""
    inputs = named_files(flatten(spec.model_dump(mode="json")), but=WRITTEN)
    return combined_hash(task, spec.model_dump_json(), json.dumps(inputs), version("rao_kedro"))


def _outputs(spec: WorkerSpec) -> list[Path]:
    if isinstance(spec, TrainingSpec):
        return [spec.workspace / "model", spec.workspace / TRAINING_LOG]
    assert isinstance(spec, ScoringSpec | AnnotationSpec)
    return [spec.output_path, *([spec.held_out_path] if isinstance(spec, PolicyScoringSpec) else [])]


def _marker(spec: WorkerSpec) -> Path:
    """Return the file that says which run its outputs are finished of."""
    return spec.workspace / f"{_outputs(spec)[0].name}.finished.json"


def _finished_run(spec: WorkerSpec) -> str | None:
    """Return the key of the run whose outputs are there as it left them, if there is one."""
    if not _marker(spec).exists():
        return None
    finished = json.loads(_marker(spec).read_text())
    there = {str(path): path_hash(path) for path in _outputs(spec) if path.exists()}
    return finished["run"] if finished["outputs"] == there else None


def _discard_checkpoint_of_another_run(workspace: Path, run: str) -> None:
    """Let a run resume only from a checkpoint that the same parameters and the same inputs made."""
    made_by = workspace / "checkpoints_made_by.txt"
    if not made_by.exists() or made_by.read_text() != run:
        shutil.rmtree(workspace / CHECKPOINTS, ignore_errors=True)
        write_text(made_by, run)


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
    return pd.read_json(workspace / TRAINING_LOG, lines=True)
