"""Runs a worker module in a process of its own and streams what it says to the log.

A worker's memory is freed when it ends, and the process that runs the pipeline never imports torch for it.
A worker logs as any code does: its warnings and errors are its launcher's too. Imports nothing heavy. Knows nothing
about what a worker does.
"""

import gc
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rao_kedro.errors import RaoKedroError
from rao_kedro.files import only_one_in, write_text
from rao_kedro.progress import PROGRESS_PREFIX, Progress, hear, report_to_launcher

logger = logging.getLogger(__name__)

LAST_LINES = 20
ERROR_PREFIX = "rao_kedro error: "
WARNING_PREFIX = "rao_kedro warning: "
SAID_PREFIX = "rao_kedro says: "
FOR_THE_USER = "rao_kedro.judges.judge"  # says what judges are going to cost, which users see from workers too


@contextmanager
def launching(spec_path: Path, spec: str) -> Iterator[None]:
    """Write a worker's spec; while entered, nobody else may write it, or run a worker in its directory.

    Raises:
        BusyError: Somebody launches a worker there, or one is at work that has outlived its launcher.
    """
    spec_path.parent.mkdir(parents=True, exist_ok=True)
    with only_one_in(spec_path.parent, "launcher"):
        with only_one_in(spec_path.parent):
            write_text(spec_path, spec)
        yield


def run_worker(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command, log its output line by line, and wait for its end.

    SIGTERM and an interrupt are passed on to the command and its children, which may save their work first.

    Args:
        command: Program and arguments.
        environment: The whole environment of the process.

    Raises:
        RaoKedroError: The command failed; the message is the worker's own if it said what was wrong, else its last
            lines.
    """
    logger.info("running %s", shlex.join(command))
    last: deque[str] = deque(maxlen=LAST_LINES)
    process = subprocess.Popen(
        command,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # one group to signal: `accelerate launch` does not pass signals on
    )
    with _sigterm_passed_on(process):
        try:
            message = _follow(process, last)
            code = process.wait()
        except BaseException:
            _signal_group(process, signal.SIGTERM)
            _follow(process, last)
            process.wait()
            raise
    if code:
        lines = "\n".join(last)
        raise RaoKedroError(message or f"{' '.join(command[:6])} ended with exit status {code}:\n{lines}")


def _follow(process: subprocess.Popen[str], last: deque[str]) -> str | None:
    """Log what a worker says until it says no more; return its error message, if there is one."""
    message: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        line = line.rstrip()
        if line.startswith(ERROR_PREFIX):
            message.append(line.removeprefix(ERROR_PREFIX))
        elif line.startswith(WARNING_PREFIX):
            logger.warning("%s", line.removeprefix(WARNING_PREFIX))
        elif line.startswith(SAID_PREFIX):
            logging.getLogger(FOR_THE_USER).info("%s", line.removeprefix(SAID_PREFIX))
        elif line.startswith(PROGRESS_PREFIX):
            hear(Progress.read(line))
        elif line:
            last.append(line)
            logger.info("%s", line)
    return "\n".join(dict.fromkeys(message)) or None  # processes of one worker fail alike


@contextmanager
def _sigterm_passed_on(process: subprocess.Popen[str]) -> Iterator[None]:
    """Pass SIGTERM on, where Python lets us take it over: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: _signal_group(process, signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a process of its own session with its children at the end, at once if it does not stop in 20 seconds."""
    try:
        yield
    finally:
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: "subprocess.Popen[Any]", number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, number)


def worker_main(main: Callable[[str], None]) -> None:
    """Run a worker's `main(spec_path)`, alone in the spec's directory; the first process of several sees to that.

    What it logs, reports and raises goes through its output to the launcher; an error of ours ends in exit status 1.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_ForTheLauncher())
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
        print(_prefixed(ERROR_PREFIX, str(error)), flush=True)
        raise SystemExit(1) from error
    torch = sys.modules.get("torch")
    # A group of one is vLLM's, which ends it itself.
    if torch is not None and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        gc.collect()  # a DDP module that outlives the process group waits for its thread, which waits for the GIL
        torch.distributed.destroy_process_group()  # else its threads may abort a process that ends before the others


class _ForTheLauncher(logging.Formatter):
    """Marks what the launcher's user sees of a worker's output: warnings, errors, costs."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno >= logging.WARNING:
            return _prefixed(WARNING_PREFIX, text)
        return _prefixed(SAID_PREFIX, text) if record.name == FOR_THE_USER else text


def _prefixed(prefix: str, text: str) -> str:
    """Return text whose every line has the prefix, as the launcher reads line by line."""
    return "\n".join(prefix + line for line in text.splitlines())
