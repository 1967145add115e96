"""The log of a run: a file in `logs` that holds everything, whatever the console shows of it.

Knows nothing of terminals: each record is also given to a function that decides whether to show it.
"""

import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import click

PACKAGE = "rao_kedro"
LOGS, KEPT_LOGS = "logs", 50

# mlflow warns of a class that kedro-mlflow defines, whenever `kedro` starts, and overrides the filters of `warnings`.
logging.getLogger("py.warnings").addFilter(
    lambda record: "type hints to the `predict` method" not in record.getMessage()
)


def new_log(project: Path) -> Path:
    """Return the file of a new log in the project's `logs`, and remove the oldest logs there.

    Raises:
        ClickException: The folder cannot be used.
    """
    directory = project / LOGS
    try:
        directory.mkdir(exist_ok=True)
        for old in sorted(directory.glob("run_*.log"))[: -KEPT_LOGS + 1]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise click.ClickException(f"logs of runs cannot be kept in {directory}: {error}") from error
    return directory / f"run_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.log"


@contextmanager
def log_everything(log: Path, show: Callable[[logging.LogRecord], None], redirect: bool) -> Iterator[None]:
    """Write every record into a file and give it to `show`, while entered; afterwards logging is as it was.

    Where the user has a logging configuration (KEDRO_LOGGING_CONFIG), its handlers and levels stay, and `show` is given
    nothing.

    Args:
        log: The file.
        show: Shows a record to the user, or does not.
        redirect: Whether what libraries write to stderr becomes log records too.
    """
    root = logging.getLogger()
    file = logging.FileHandler(log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    handlers = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("", PACKAGE, "kedro", "kedro.io")}
    if not os.environ.get("KEDRO_LOGGING_CONFIG"):
        root.handlers = [_ShowHandler(show)]
        for name in levels:
            logging.getLogger(name).setLevel(logging.DEBUG if name == PACKAGE else logging.INFO)
    root.addHandler(file)
    logging.captureWarnings(True)
    try:
        with redirect_stderr(_StderrToLog(sys.stderr)) if redirect else nullcontext():
            yield
    except BaseException:
        logging.getLogger(PACKAGE).debug("the run ended early", exc_info=True)
        raise
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        root.handlers = handlers
        file.close()


class _ShowHandler(logging.Handler):
    def __init__(self, show: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.DEBUG)
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record)


class _StderrToLog(io.TextIOBase):
    """Logs what is written to stderr, line by line; of a bar that is drawn over and over, its last state."""

    def __init__(self, stderr: Any) -> None:
        self._stderr, self._line = stderr, ""
        self._busy = threading.local()

    def write(self, text: str) -> int:
        if getattr(self._busy, "now", False):  # logging itself complains
            return int(self._stderr.write(text))
        *lines, self._line = (self._line + text).split("\n")
        self._busy.now = True
        try:
            for line in lines:
                if line := line.rstrip("\r").rpartition("\r")[2].strip():
                    logging.getLogger("stderr").info("%s", line)
        finally:
            self._busy.now = False
        return len(text)

    def fileno(self) -> int:
        return int(self._stderr.fileno())

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True
