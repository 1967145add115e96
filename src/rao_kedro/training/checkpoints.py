"""Checkpoints of a run: each process writes and hashes its share in the background, and the manifest is written last.

A kill at any moment leaves the previous checkpoint intact. A damaged checkpoint is skipped for the one before it. All
processes must see the same directory. DeepSpeed writes its own files, while training waits.
"""

import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.state import DistributedType
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from rao_kedro.distributed import sharding
from rao_kedro.errors import TrainingError
from rao_kedro.files import write_text
from rao_kedro.identity import file_hash
from rao_kedro.training.best import Best
from rao_kedro.training.trained_state import (
    INDEX,
    TrainedState,
    copy_to_cpu,
    n_bytes,
    random_state,
    set_random_state,
    write_tensors,
)

logger = logging.getLogger(__name__)

DIRECTORY = "checkpoints"
MANIFEST = "manifest.json"
# Who wrote the tensors, as the manifest says. Earlier versions of this package did not say it.
TORCH, DEEPSPEED = "torch.distributed.checkpoint", "DeepSpeed"
ROOM = 0.25  # share of the free memory that the copies of all processes of a machine may take
PATIENCE = 10.0  # seconds until a file that one machine has written must be there on the others


class Checkpoints:
    """Saves and loads a run's state, its step and its best score. A context, at whose end all is written."""

    def __init__(self, accelerator: Accelerator, workspace: Path, keep: int, state: TrainedState) -> None:
        """Keep the last `keep` checkpoints of the run in `workspace/checkpoints`.

        Raises:
            TrainingError: A process does not see that directory.
        """
        self.accelerator, self.keep, self.state = accelerator, keep, state
        self.directory = workspace / DIRECTORY
        self.process, self.n_processes = accelerator.process_index, accelerator.num_processes
        self.writer = DEEPSPEED if sharding() == DistributedType.DEEPSPEED else TORCH
        if self.writer == DEEPSPEED:
            accelerator.register_for_checkpointing(state.schedule)
        # The background thread must not use the group of the training's own collectives, which may be NCCL's.
        self.group = dist.new_group(backend="gloo") if self.n_processes > 1 else None
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        if self.n_processes > 1:
            self._refuse_unseen_directory()

    def __enter__(self) -> "Checkpoints":
        """Return the checkpoints."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Wait for the last checkpoint; the error that ends a run comes before one of writing."""
        try:
            self.wait()
        except TrainingError as unwritten:
            if error is None:
                raise
            logger.warning("%s", unwritten)
        finally:
            self._background.shutdown()

    def resume(self) -> tuple[int, Best]:
        """Load the newest intact checkpoint, if any; return its step and the best evaluation so far."""
        (names,) = broadcast_object_list([[path.name for path in self._newest_first()]])
        for name in names:
            path = self.directory / name
            if (problem := self._problem(path)) is None:
                return self._load(path)
            if self.accelerator.is_main_process:
                logger.warning("skipped checkpoint %s: %s", path, problem)
        return 0, Best()

    def save(self, step: int, best: Best) -> None:
        """Copy the state to the memory of the CPU, and write it in the background; then remove the oldest checkpoint.

        Where the copy would take more than a quarter of the free memory, the state is written while training waits.

        Raises:
            TrainingError: This or the previous checkpoint could not be written; earlier ones are intact.
        """
        self.wait()
        partial = self._path(step).with_suffix(".partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        manifest: dict[str, Any] = {"writer": self.writer, "step": step, "best": best.score, "since_best": best.since}
        if self.writer == DEEPSPEED:
            self._write(partial, manifest, lambda: self._write_with_deepspeed(partial))
            return
        tensors, rest = self.state.share(self.process, self.n_processes)
        random = random_state(self.accelerator.device)
        if copied := _has_room_for_copy(tensors):
            tensors = copy_to_cpu(tensors)
        self._writing = self._background.submit(
            self._write, partial, manifest | rest, lambda: self._write_share(partial, tensors, random)
        )
        if not copied:  # training must not change what is being written
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            TrainingError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}"

    def _newest_first(self) -> list[Path]:
        found = (path for path in self.directory.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
        return sorted(found, reverse=True)

    def _write(self, partial: Path, manifest: Mapping[str, Any], write_files: Callable[[], dict[str, str]]) -> None:
        """Write the files of this process; when every process has done so, the main one adds the manifest, last."""
        hashes, problem = {}, None
        try:
            hashes = write_files()
        except (OSError, RuntimeError, dcp.CheckpointException) as error:  # torch's RuntimeError may be a full disk
            problem = _cause(error)
        shares = self._gather((hashes, problem))
        problem = next((of_process for _, of_process in shares if of_process is not None), None)
        try:
            if problem is None and self.accelerator.is_main_process:
                files = {name: value for of_process, _ in shares for name, value in of_process.items()}
                (partial / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=2))
                target = self._path(manifest["step"])
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
                for old in self._newest_first()[self.keep :]:
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            problem = str(error)
        problem = self._gather(problem)[0]  # the main process's, so that all of them stop
        if problem is not None:
            shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"the checkpoint of step {manifest['step']} could not be written ({problem}). If the disk is full, "
                f"make room first. The same command resumes from the earlier checkpoints in {self.directory}"
            )

    def _gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the thread that writes."""
        if self.group is None:
            return [value]
        values: list[Any] = [None] * self.n_processes
        dist.all_gather_object(values, value, group=self.group)
        return values

    def _write_share(self, partial: Path, tensors: dict[str, Tensor], random: str) -> dict[str, str]:
        """Write the share of this process, and return the hashes of its files."""
        write_tensors(tensors, partial, self.group)
        mine = partial / _random_file(self.process)
        mine.write_text(random)
        written = [mine, *partial.glob(f"__{self.process}_*")]
        written += [partial / INDEX] if self.accelerator.is_main_process else []
        return {path.name: file_hash(path).hex() for path in written}

    def _write_with_deepspeed(self, partial: Path) -> dict[str, str]:
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return {}
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        return {str(path.relative_to(partial)): file_hash(path).hex() for path in files}

    def _load(self, directory: Path) -> tuple[int, Best]:
        manifest = json.loads((directory / MANIFEST).read_text())
        if self.writer == DEEPSPEED:
            self.accelerator.load_state(str(directory))
        else:
            self.state.load(directory, manifest, self.group)
            if (random := directory / _random_file(self.process)).exists():  # else more processes go on than wrote it
                set_random_state(random.read_text(), self.accelerator.device)
        return manifest["step"], Best(manifest["best"], manifest.get("since_best", 0))

    def _problem(self, directory: Path) -> str | None:
        """Return what is wrong with a checkpoint; None if it is intact. Each process hashes its share of the files."""
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
            files = manifest["files"]
        except (OSError, ValueError, KeyError):
            return "its manifest cannot be read"
        if (writer := manifest.get("writer")) != self.writer:
            by = f"with {writer}" if writer else "by an earlier version of this package"
            return f"it was written {by}, and this run reads checkpoints of {self.writer}"
        mine = sorted(files)[self.process :: self.n_processes]
        problems: list[str] = gather_object([*filter(None, (_damage(directory / name, files[name]) for name in mine))])
        return problems[0] if problems else None

    def _refuse_unseen_directory(self) -> None:
        """Let the main process write a file that every process must see."""
        (token,) = broadcast_object_list([uuid4().hex])
        probe = self.directory / f".{token}"
        if self.accelerator.is_main_process:
            write_text(probe, "")
        self.accelerator.wait_for_everyone()
        until = time.monotonic() + PATIENCE
        while not (seen := probe.exists()) and time.monotonic() < until:
            time.sleep(0.1)
        unseeing: list[str] = gather_object([] if seen else [socket.gethostname()])
        if self.accelerator.is_main_process:
            probe.unlink()
        if unseeing:
            raise TrainingError(
                f"{self.directory} of the first machine is not there on {', '.join(sorted(set(unseeing)))}: put "
                "data_root on storage that all machines share, since each process writes its share of a checkpoint"
            )


def _has_room_for_copy(tensors: Mapping[str, Tensor]) -> bool:
    copies = n_bytes(tensors) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return copies <= ROOM * psutil.virtual_memory().available


def _random_file(process: int) -> str:
    return f"random-{process:05d}.json"


def _damage(path: Path, expected: str) -> str | None:
    if not path.exists():
        return f"{path.name} is missing"
    return None if file_hash(path).hex() == expected else f"{path.name} has changed since it was written"


def _cause(error: BaseException) -> str:
    """Return the message of an error; of torch's summary of all processes, that of the first."""
    failures = error.failures if isinstance(error, dcp.CheckpointException) else {}
    return next((str(cause) for cause, _ in failures.values()), str(error))
