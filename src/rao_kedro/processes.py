"""Runs a worker module in a process of its own and streams what it says to the log.

A worker's memory is freed when it ends, and the process that runs the pipeline never imports torch for it.
Imports nothing heavy. Knows nothing about what a worker does.
"""

import logging
import shlex
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from rao_kedro.errors import RaoKedroError

logger = logging.getLogger(__name__)

LAST_LINES = 20
ERROR_PREFIX = "rao_kedro error: "
WARNING_PREFIX = "rao_kedro warning: "


def run_worker(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command, log its output line by line, and wait for its end.

    Args:
        command: Program and arguments.
        environment: The whole environment of the process.

    Raises:
        RaoKedroError: The command failed; the message is the worker's own if it said what was wrong, else its last
            lines.
    """
    logger.info("running %s", shlex.join(command))
    last: deque[str] = deque(maxlen=LAST_LINES)
    message = None
    process = subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            line = line.rstrip()
            if line.startswith(ERROR_PREFIX):
                message = line.removeprefix(ERROR_PREFIX)
            elif line.startswith(WARNING_PREFIX):
                logger.warning("%s", line.removeprefix(WARNING_PREFIX))
            elif line:
                last.append(line)
                logger.info("%s", line)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        lines = "\n".join(last)
        raise RaoKedroError(message or f"{' '.join(command[:6])} ended with exit status {code}:\n{lines}")


def worker_main(main: Callable[[str], None]) -> None:
    """Run a worker's `main(spec_path)`; an error of ours becomes one line on the console and exit status 1."""
    try:
        main(sys.argv[1])
    except RaoKedroError as error:
        print(f"{ERROR_PREFIX}{error}", flush=True)
        raise SystemExit(1) from error
