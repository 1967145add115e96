"""Starts workers, which do the heavy work of nodes in processes of their own: `launch(spec, workers)`.

A node writes down what to do in a `Spec`, and a worker's module reads it. A worker's memory is freed when it ends, and
the process that runs the pipeline never imports torch. Knows nothing about what a worker does.
"""

import gc
import importlib
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from rao_kedro.errors import RaoKedroError
from rao_kedro.files import only_one_in, write_text
from rao_kedro.identity import combined_hash, flatten, named_files
from rao_kedro.processes import ERROR_PREFIX, NOTICE_PREFIX, WARNING_PREFIX, run_program
from rao_kedro.progress import KEPT, report_to_launcher
from rao_kedro.shards import is_finished, mark_finished

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
SCRATCH = ("workspace", "cache_dir")  # fields of specs that name directories in which a worker keeps its own files

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


class Spec(BaseModel):
    """What a worker is to do.

    Attributes:
        worker: The worker's module. Its `main(spec_path)` does the work.
        error: Raised in the node where the worker fails.
        advice: Ends the message of that error.
        accelerated: Whether the processes of `accelerate launch` do the work; otherwise one plain process does.
        environment: Environment variables of the worker; the user's own settings win.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    worker: ClassVar[str]
    error: ClassVar[type[RaoKedroError]]
    advice: ClassVar[str] = ""
    accelerated: ClassVar[bool] = False
    environment: ClassVar[Mapping[str, str]] = {}

    @property
    def title(self) -> str:
        """The work's name in logs and at the beginning of errors."""
        return self.worker.rpartition(".")[2]

    @property
    def spec_path(self) -> Path:
        """Where the spec is written. Its directory is the worker's own: only one run may use it at a time."""
        raise NotImplementedError

    @property
    def outputs(self) -> tuple[Path, ...]:
        """What a finished run leaves. The same spec with the same inputs is not run again while they are unchanged.

        Empty where the worker itself finds out what is finished.
        """
        return ()


class Workers(Protocol):
    """How workers are started.

    Attributes:
        accelerate_config: The YAML file of `accelerate launch`.
        in_process: Whether workers run inside this process.
    """

    @property
    def accelerate_config(self) -> Path: ...  # noqa: D102

    @property
    def in_process(self) -> bool: ...  # noqa: D102


def launch(spec: Spec, workers: Workers, metric_prefix: str = "") -> None:
    """Run a worker and wait for it; return at once where a finished run left the spec's outputs.

    Where the environment variable RAO_KEDRO_LAUNCHER names a program, that program is given the `accelerate launch`
    command and runs it on every machine.

    Args:
        spec: What the worker is to do.
        workers: How it is started.
        metric_prefix: Put before the names of the worker's metrics in MLflow.

    Raises:
        RaoKedroError: The worker failed: an error of the class `spec.error` with the worker's own message.
        BusyError: Another run uses the directory of the spec.
    """
    with _locked(spec):
        run = _key(spec)
        if spec.outputs:
            if is_finished(_marker(spec), run, spec.outputs):
                directory = spec.spec_path.parent
                logger.info(
                    "%s is finished in %s, from the same parameters and inputs", spec.title, directory, extra=KEPT
                )
                return
            _marker(spec).unlink(missing_ok=True)
            _discard_checkpoint_of_another_run(spec.spec_path.parent, run)
        if workers.in_process:
            importlib.import_module(spec.worker).main(str(spec.spec_path))
        else:
            _run_process(spec, workers.accelerate_config, metric_prefix)
        if spec.outputs:
            mark_finished(_marker(spec), run, spec.outputs)
            shutil.rmtree(spec.spec_path.parent / CHECKPOINTS, ignore_errors=True)  # last: a killed run resumes there


@contextmanager
def _locked(spec: Spec) -> Iterator[None]:
    """Write a spec; until the end nobody else may write it or run a worker in its directory.

    Raises:
        BusyError: Another launcher is at work there, or a worker that has outlived its launcher.
    """
    directory = spec.spec_path.parent
    directory.mkdir(parents=True, exist_ok=True)
    with only_one_in(directory, "launcher"):
        with only_one_in(directory):
            write_text(spec.spec_path, spec.model_dump_json(indent=2))
        yield


def _run_process(spec: Spec, accelerate_config: Path, metric_prefix: str) -> None:
    command = [sys.executable, "-m"]
    if spec.accelerated:
        launcher = shlex.split(os.environ.get("RAO_KEDRO_LAUNCHER", ""))
        options = ["accelerate.commands.launch", "--config_file", str(accelerate_config), "-m"]
        command = [*launcher, *command, *options]
    try:
        run_program([*command, spec.worker, str(spec.spec_path)], _environment(spec, metric_prefix))
    except RaoKedroError as error:
        advice = f"\n{spec.advice}" if spec.advice else ""
        raise spec.error(f"{spec.title}: {error}{advice}") from error


def _environment(spec: Spec, metric_prefix: str) -> dict[str, str]:
    environment = {**spec.environment, **os.environ, "PYTHONUNBUFFERED": "1", "RAO_KEDRO_METRIC_PREFIX": metric_prefix}
    # Only an active run is passed on: asking mlflow for one would create one.
    if mlflow := sys.modules.get("mlflow"):
        run = mlflow.active_run()
        if run is not None:
            environment |= {"MLFLOW_RUN_ID": run.info.run_id, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    return environment


def _key(spec: Spec) -> str:
    """Return a hash of all that a run depends on: its parameters, the content of its inputs, this package's version."""
    outputs = [str(path) for path in spec.outputs]
    values = {name: value for name, value in flatten(spec.model_dump(mode="json")).items() if value not in outputs}
    inputs = named_files(values, but=SCRATCH)
    return combined_hash(spec.worker, spec.model_dump_json(), json.dumps(inputs), version("rao_kedro"))


def _marker(spec: Spec) -> Path:
    """Return the file that says which run left the outputs."""
    return spec.spec_path.with_name(f"{spec.outputs[0].name}.finished.json")


def _discard_checkpoint_of_another_run(directory: Path, run: str) -> None:
    """Let a run resume only from a checkpoint that the same parameters and the same inputs made."""
    made_by = directory / "checkpoints_made_by.txt"
    if not made_by.exists() or made_by.read_text() != run:
        shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
        write_text(made_by, run)


def worker_main(main: Callable[[str], None]) -> None:
    """Run a worker's `main(spec_path)` as a program; the spec's path is its only argument.

    The first of several processes keeps other workers out of the spec's directory. Logs, progress and errors are
    printed for the launcher; an error of this project ends the process with exit status 1.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_LauncherFormatter())
    for name in ("rao_kedro", "__main__"):  # the worker's own module is run under the latter
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).propagate = False
    directory, is_first = Path(sys.argv[1]).parent, os.environ.get("RANK", "0") == "0"
    report_to_launcher(is_first)
    try:
        with only_one_in(directory) if is_first else nullcontext():
            main(sys.argv[1])
    except RaoKedroError as error:
        print(_prefix_lines(ERROR_PREFIX, str(error)), flush=True)
        raise SystemExit(1) from error
    torch = sys.modules.get("torch")
    # A group of one is vLLM's, which ends it itself.
    if torch is not None and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        gc.collect()  # a DDP module that outlives the process group waits for its thread, which waits for the GIL
        torch.distributed.destroy_process_group()  # else its threads may abort a process that ends before the others


class _LauncherFormatter(logging.Formatter):
    """Marks the log records that the launcher's user is to see: warnings, errors and notices."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return _prefix_lines(WARNING_PREFIX, text)
        kind = getattr(record, "notice", None)
        return _prefix_lines(f"{NOTICE_PREFIX}{kind} ", text) if kind else text


def _prefix_lines(prefix: str, text: str) -> str:
    """Return text whose every line has the prefix, as the launcher reads line by line."""
    return "\n".join(prefix + line for line in text.splitlines())
