"""Runs a program, logs what it prints while it runs, and stops it with its children.

Workers talk to their launcher through lines of text: a prefix tells an error, a warning and progress from the rest.
Knows nothing about what a program does.
"""

import logging
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rao_kedro.errors import RaoKedroError
from rao_kedro.progress import PROGRESS_PREFIX, Progress, hear

logger = logging.getLogger(__name__)

LAST_LINES = 20
ERROR_PREFIX = "rao_kedro error: "
WARNING_PREFIX = "rao_kedro warning: "
NOTICE_PREFIX = "rao_kedro notice: "  # then its kind


def run_program(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a program, log its output line by line, and wait for it to end.

    The program and its children get the SIGTERM or interrupt that this process gets, so that they can save their work.

    Args:
        command: Program and arguments.
        environment: All environment variables of the program.

    Raises:
        RaoKedroError: The program failed. The message is what the program printed with `ERROR_PREFIX`, or else its last
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
    with _forward_sigterm(process):
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
    """Log a program's output until it ends, and return its error message if it printed one."""
    message: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        line = line.rstrip()
        if line.startswith(ERROR_PREFIX):
            message.append(line.removeprefix(ERROR_PREFIX))
        elif line.startswith(WARNING_PREFIX):
            logger.warning("%s", line.removeprefix(WARNING_PREFIX))
        elif line.startswith(NOTICE_PREFIX):
            kind, _, text = line.removeprefix(NOTICE_PREFIX).partition(" ")
            logger.info("%s", text, extra={"notice": kind})
        elif line.startswith(PROGRESS_PREFIX):
            hear(Progress.read(line))
        elif line:
            last.append(line)
            logger.info("%s", line)
    return "\n".join(dict.fromkeys(message)) or None  # every process of a worker may print the same error


@contextmanager
def _forward_sigterm(process: subprocess.Popen[str]) -> Iterator[None]:
    """Send the SIGTERM that this process gets to a program; only the main thread can set a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: _signal_group(process, signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_at_end(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a program and its children when the block ends; kill them after 20 seconds. It must lead its session."""
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
