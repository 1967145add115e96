"""Progress of long work: reported by the code that does it, in this process or in a worker, and shown by a listener.

Imports nothing heavy. Knows nothing about terminals.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

logger = logging.getLogger(__name__)

PROGRESS_PREFIX = "rao_kedro progress: "
# `extra` of a log record that is for the user, from a worker, too: what it says, or that the work was done before.
NOTICE, KEPT = {"notice": "said"}, {"notice": "kept"}
LINE_SECONDS, LINE_SHARE, SILENT_SECONDS = 30, 0.1, 600  # when a line of progress is due without a bar


class Progress(NamedTuple):
    """Progress of one piece of work.

    Attributes:
        what: The name of the work, for example "training rao".
        done: Units that are done.
        total: All units.
        unit: The unit: rows, steps, prompts, requests.
        rate: Speed in `rate_unit`; None if it is not measured.
        rate_unit: For example tokens/s.
    """

    what: str
    done: int
    total: int
    unit: str = "rows"
    rate: float | None = None
    rate_unit: str = "tokens/s"

    @classmethod
    def read(cls, line: str) -> "Progress":
        """Return the progress in a line of a worker's output."""
        return cls(**json.loads(line.removeprefix(PROGRESS_PREFIX)))


class Pace:
    """Estimates the time left from the speed since the first report."""

    def __init__(self, first: Progress) -> None:
        """Start the clock; units that are done already, for example before a resume, do not count."""
        self.started, self.done_before = time.monotonic(), first.done

    def seconds_left(self, progress: Progress) -> float | None:
        """Return the seconds left; None before any unit was done."""
        done = progress.done - self.done_before
        elapsed = time.monotonic() - self.started
        return elapsed / done * (progress.total - progress.done) if done > 0 else None


class ProgressLines:
    """Writes progress as lines: `rao.train: 45 of 90 steps, 3512 tokens/s, 4 min left`.

    A line is due 30 seconds after the last one if a tenth of the work was done since, else after 10 minutes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        """Write lines with `say`."""
        self.say = say
        self._works: dict[str, tuple[Pace, Progress, float]] = {}  # by name: pace, last report, its time
        self._lock = threading.Lock()  # several threads send requests to judges

    def __call__(self, progress: Progress) -> None:
        """Take a report, and write a line if one is due."""
        with self._lock:
            if progress.done >= progress.total:
                self._works.pop(progress.what, None)  # its caller says that it is done
                return
            known, now = self._works.get(progress.what), time.monotonic()
            if known is None or progress.done < known[1].done:
                self._works[progress.what] = Pace(progress), progress, now
                return
            pace, last, said_at = known
            more, silent = progress.done - last.done, now - said_at
            if silent < LINE_SECONDS or (more < LINE_SHARE * progress.total and silent < SILENT_SECONDS):
                return
            self._works[progress.what] = pace, progress, now
        self.say(f"{progress.what}: {in_words(progress, pace.seconds_left(progress))}")


def in_words(progress: Progress, seconds_left: float | None) -> str:
    """Return progress as text: units done, speed, time left."""
    parts = [f"{progress.done} of {progress.total} {progress.unit}"]
    parts += [f"{progress.rate:.0f} {progress.rate_unit}"] if progress.rate is not None else []
    parts += [f"{duration(seconds_left)} left"] if seconds_left is not None else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time in words: 4.2 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


_listener: Callable[[Progress], None] = ProgressLines(lambda line: logger.info("%s", line))


def report_to_launcher(is_first: bool) -> None:
    """Report the progress of this worker to its launcher; of several processes only the first one does."""
    global _listener
    _listener = _print if is_first else lambda progress: None


def _print(progress: Progress) -> None:
    print(f"{PROGRESS_PREFIX}{json.dumps(progress._asdict())}", flush=True)


def hear(progress: Progress) -> None:
    """Pass a report to the listener."""
    logger.debug("%s", progress)
    _listener(progress)


@contextmanager
def listen_to_progress(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Pass reports to `listener` inside the context, in place of writing lines to the log."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def report_progress(
    what: str, done: int, total: int, unit: str = "rows", rate: float | None = None, rate_unit: str = "tokens/s"
) -> None:
    """Report progress: once before the work starts, and whenever some of it is done. Any thread may call this.

    A worker reports to its launcher, which shows a bar or, without a terminal, a line now and then.

    Args:
        what: The name of the work, for example "training rao".
        done: Units that are done.
        total: All units.
        unit: The unit: rows, steps, prompts, requests.
        rate: Speed in `rate_unit`; None if it is not measured.
        rate_unit: For example tokens/s.
    """
    hear(Progress(what, done, total, unit, rate, rate_unit))


def progress_of(what: str, total: int, unit: str) -> Callable[[object], None]:
    """Return a callback for `Future.add_done_callback` that reports one more unit per call. Any thread may call it."""
    done, lock = 0, threading.Lock()

    def one_more(_: object) -> None:
        nonlocal done
        with lock:
            done += 1
            report_progress(what, done, total, unit)

    report_progress(what, 0, total, unit)
    return one_more
