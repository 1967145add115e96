"""What `kedro run` shows: a line per node, a bar for long work, a summary, errors as sentences.

All else (Kedro's own lines, workers' output, what libraries say on stderr, tracebacks) is in a log file of the run.
Notebooks and programs that run a session see none of this: they have Kedro's logging, and exceptions. Knows nothing of
what the tables of a run hold; see `rao_kedro.framework.summary`.
"""

import io
import logging
import os
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import click
import pandas as pd
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from rao_kedro.errors import RaoKedroError
from rao_kedro.framework.summary import shown_path, summary
from rao_kedro.progress import Pace, Progress, ProgressLines, duration, in_words, listen_to_progress

PACKAGE = "rao_kedro"
CLI = f"{PACKAGE}.cli"
LOGS, KEPT_LOGS = "logs", 50
ERROR_LINES = 10
# Whose INFO is for the user. Of the others in this package, only warnings and errors are.
TALKATIVE = {
    f"{PACKAGE}.{name}" for name in ("framework.console", "framework.session", "framework.hooks", "judges.judge")
}
OUTPUTS_SHOWN = 3

logger = logging.getLogger(__name__)

# mlflow warns of a class that kedro-mlflow defines, whenever `kedro` starts, and overrides the filters of `warnings`.
logging.getLogger("py.warnings").addFilter(
    lambda record: "type hints to the `predict` method" not in record.getMessage()
)


class RunConsole:
    """What a run shows, line by line, and its bar."""

    def __init__(self, project: Path, log: Path, verbose: bool) -> None:
        """Show nothing yet.

        Args:
            project: The project's directory; paths are shown relative to it.
            log: The run's log file.
            verbose: All that is logged is shown too, so that there is no bar.
        """
        self.project, self.log, self.verbose = project, log, verbose
        self.console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self.terminal = sys.stdout.isatty() and self.console.is_interactive  # FORCE_COLOR makes no terminal of a file
        self.bars: Bars | None = None
        self.running: dict[str, _Running] = {}
        self.n_nodes, self.n_done, self.started = 0, 0, time.monotonic()
        self.warnings, self.library_warnings, self.width = 0, 0, 0
        self._lines = ProgressLines(self.say)
        self._lock = threading.Lock()  # nodes may run in threads

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar, while entered, where there is a terminal; lines of progress elsewhere."""
        with ExitStack() as stack:
            if self.terminal and not self.verbose:
                columns = (TextColumn("{task.description}"), BarColumn(None), _StateColumn(Column(no_wrap=True)))
                self.bars = Bars(*columns, console=self.console, transient=True, expand=True, redirect_stderr=False)
                stack.enter_context(self.bars)
            stack.enter_context(listen_to_progress(self.hear))
            yield
        self.bars = None

    def say(self, text: str, style: str | None = None, crop: bool = False) -> None:
        """Print text above the bar; cut it at the terminal's width, or break it there. Files have whole lines.

        Paths in the project are relative to it.
        """
        text = text.replace(f"{self.project}{os.sep}", "")
        if not self.terminal:
            self.console.print(text, soft_wrap=True)
        elif crop:
            self.console.print(text, style=style, no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(text, style=style)

    def start(self, pipeline: Pipeline, n_nodes: int | None) -> None:
        """Say what will run, where it is known how many nodes."""
        self.n_nodes = n_nodes or 0
        self.width = max((len(node.name) for node in pipeline.nodes), default=0)
        how_many = f"{len(pipeline.nodes)} node{'s'[: len(pipeline.nodes) != 1]}"
        self.say(f"{how_many}; everything is logged in {shown_path(self.log, self.project)}")

    def start_node(self, node: Node) -> None:
        """Note that a node starts."""
        with self._lock:
            self.running[node.name] = running = _Running(node)
            if self.bars is not None:
                running.bar = self.bars.add_task(node.name, total=None, state="")

    def note_output(self, node: Node, name: str, data: Any) -> None:
        """Note an artefact of a node, which ends with its last one."""
        running = self.running.get(node.name)
        if running is None:
            return
        running.unsaved.discard(name)
        running.made[name] = data
        if not running.unsaved:
            self._end_node(running)

    def _end_node(self, running: "_Running") -> None:
        with self._lock:
            del self.running[running.node.name]
            self.n_done += 1
            if self.bars is not None and running.bar is not None:
                self.bars.remove_task(running.bar)
                self.bars.refresh()
            of = f"/{self.n_nodes}" if self.n_nodes else ""
            counter = f"{self.n_done}{of}".rjust(2 * len(str(self.n_nodes)) + 1)
            seconds = duration(time.monotonic() - running.started)
            made = in_short([name for name in running.node.outputs if name in running.made], running.made)
            self.say(f"{counter} {running.node.name:{self.width}} {seconds:>8}  {made}".rstrip(), crop=True)

    def hear(self, progress: Progress) -> None:
        """Show how far the node at work is."""
        with self._lock:
            running = next(iter(self.running.values())) if len(self.running) == 1 else None
        if self.bars is None or running is None:
            self._lines(progress._replace(what=f"{running.node.name}: {progress.what}" if running else progress.what))
        elif running.bar is not None:
            if running.work != progress.what:
                running.work, running.pace = progress.what, Pace(progress)
            assert running.pace is not None
            state = in_words(progress, running.pace.seconds_left(progress))
            self.bars.update(running.bar, completed=progress.done, total=progress.total, state=state)

    def finish(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the summary."""
        self.say(f"finished in {duration(time.monotonic() - self.started)}")
        for line in summary(pipeline, catalog, self.project):
            self.say(line)
        counts = f"{self.warnings} shown above" if self.warnings else "none of ours"
        counts += f", {self.library_warnings} of libraries in the log" if self.library_warnings else ""
        self.say(f"warnings: {counts}")

    def explain(self, error: BaseException) -> None:
        """Say what went wrong in at most ten lines."""
        root = f"{self.project}{os.sep}"
        where = f" in {next(iter(self.running))}" if len(self.running) == 1 else ""
        sentences = [sentence.replace(root, "") for sentence in _sentences(error)]  # before they are broken into lines
        lines = [f"error{where}: {sentences[0]}", *sentences[1:]]
        ends = self._how_to_go_on()
        log = shown_path(self.log, self.project)
        ends.append(f"The log is {log}" + ("." if self.verbose else "; `--verbose` shows it, with the traceback."))
        width = self.console.width if self.terminal else 80
        broken = [textwrap.wrap(line, width, break_on_hyphens=False) or [""] for line in lines]
        room = ERROR_LINES - len([part for end in ends for part in textwrap.wrap(end, width)])
        for line in lines if sum(map(len, broken)) <= room else _shortened(broken, room, width):
            self.say(line, style="red")
        for line in ends:
            self.say(line)

    def interrupt(self) -> None:
        """Say that the user ended the run."""
        for line in (f"interrupted; the log is {shown_path(self.log, self.project)}", *self._how_to_go_on()):
            self.say(line)

    def _how_to_go_on(self) -> list[str]:
        done = f"{self.n_done} node{' is' if self.n_done == 1 else 's are'} done"
        goes_on = "`kedro run --only-stale-outputs`, with the same options, goes on there."
        return [f"{done}: {goes_on}"] if self.n_done else []


def _shortened(sentences: list[list[str]], room: int, width: int) -> list[str]:
    """Return the lines of sentences of which there are too many: the beginning of each, or else the first and last."""
    n_lines = sum(map(len, sentences))
    if 1 < len(sentences) <= room:
        kept = [1] * len(sentences)
        while sum(kept) < room:
            kept[min((n, i) for i, n in enumerate(kept) if n < len(sentences[i]))[1]] += 1
        return [
            line if n == len(lines) or i < n - 1 else textwrap.shorten(f"{line} {lines[n]}", width, placeholder=" ...")
            for lines, n in zip(sentences, kept, strict=True)
            for i, line in enumerate(lines[:n])
        ]
    first = room // 2
    last = room - first - 1
    lines = [line for sentence in sentences for line in sentence]
    return [*lines[:first], f"... ({n_lines - first - last} more lines are in the log)", *lines[n_lines - last :]]


class _StateColumn(ProgressColumn):
    """How far the node is; where it does not say so, since when it is at work."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"] or duration(task.elapsed or 0.0), no_wrap=True)


class _Running:
    """A node at work."""

    def __init__(self, node: Node) -> None:
        self.node, self.started = node, time.monotonic()
        self.unsaved, self.made = set(node.outputs), dict[str, Any]()
        self.bar: Any = None
        self.work: str | None = None
        self.pace: Pace | None = None


def in_short(names: list[str], made: Mapping[str, Any]) -> str:
    """Return what a node made: its outputs, with the rows of tables; of empty tables nothing."""
    parts = []
    for name in names:
        data, stem = made[name], name.split("@")[0]
        if not isinstance(data, pd.DataFrame):
            parts.append(stem)
        elif len(data):
            parts.append(f"{stem} ({len(data)} row{'s'[: len(data) != 1]})")
    more = [f"{len(parts) - OUTPUTS_SHOWN} more"] if len(parts) > OUTPUTS_SHOWN else []
    return ", ".join([*parts[:OUTPUTS_SHOWN], *more])


def _sentences(error: BaseException) -> list[str]:
    """Return what is wrong: the sentence of an error of ours, else the exception and where it was raised."""
    ours = next((e for e in _chain(error) if isinstance(e, RaoKedroError)), None)
    if ours is not None:
        return str(ours).splitlines() or [type(ours).__name__]
    if isinstance(error, ValidationError):
        return [f"parameter {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    frames = [(frame.f_globals.get("__name__", ""), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    message = str(error).splitlines() or [""]
    if frames and frames[-1][0].split(".")[0] == "kedro":  # of a pipeline's name, for example
        return message
    of_ours = [frame for frame in frames if frame[0].split(".")[0] == PACKAGE and frame[0] not in (__name__, CLI)]
    places = dict.fromkeys([*of_ours[-1:], *frames[-1:]])
    return [f"{type(error).__name__}: {message[0]}", *message[1:], "at " + ", in ".join(f"{m}:{n}" for m, n in places)]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


_current: RunConsole | None = None


@contextmanager
def run_console(project: Path, verbose: bool) -> Iterator[None]:
    """Show a run while entered, and log all of it in `logs` of the project.

    A logging configuration of the user's own (KEDRO_LOGGING_CONFIG) keeps its handlers and levels, beside the log file.

    Args:
        project: The project's directory.
        verbose: Show all that is logged, tracebacks included.

    Raises:
        click.exceptions.Exit: The run failed; what went wrong was said.
    """
    global _current
    shown = _current = RunConsole(project, _new_log(project), verbose)
    try:
        with _logged(shown), shown.shown():
            yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        shown.interrupt()
        raise
    except Exception as error:
        shown.explain(error)
        raise click.exceptions.Exit(1) from error
    finally:
        _current = None


def _new_log(project: Path) -> Path:
    """Return the file of a new log; the oldest logs are removed."""
    directory = project / LOGS
    try:
        directory.mkdir(exist_ok=True)
        for old in sorted(directory.glob("run_*.log"))[: -KEPT_LOGS + 1]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise click.ClickException(f"logs of runs cannot be kept in {directory}: {error}") from error
    return directory / f"run_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.log"


@contextmanager
def _logged(shown: RunConsole) -> Iterator[None]:
    """Log everything in the run's file, and show what is for the user; leave logging as it was at the end."""
    root = logging.getLogger()
    file = logging.FileHandler(shown.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    before = list(root.handlers)
    levels = {name: logging.getLogger(name).level for name in ("", PACKAGE, "kedro", "kedro.io")}
    if not os.environ.get("KEDRO_LOGGING_CONFIG"):
        root.handlers = [_VerboseHandler(shown) if shown.verbose else _ConsoleHandler(shown)]
        for name in levels:
            logging.getLogger(name).setLevel(logging.DEBUG if name == PACKAGE else logging.INFO)
    root.addHandler(file)
    logging.captureWarnings(True)
    try:
        with nullcontext() if shown.verbose else redirect_stderr(_StderrToLog(sys.stderr)):
            yield
    except BaseException:
        logging.getLogger(PACKAGE).debug("the run ended early", exc_info=True)
        raise
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        root.handlers = before
        file.close()


class _ConsoleHandler(logging.Handler):
    """Shows warnings of this package and what talkative modules say; counts the warnings of libraries."""

    def __init__(self, shown: RunConsole) -> None:
        super().__init__(logging.INFO)
        self.shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.split(".")[0] == PACKAGE
        warns = record.levelno >= logging.WARNING
        if ours and warns:
            self.shown.warnings += 1
            self.shown.say(f"warning: {record.getMessage()}", style="yellow")
        elif record.name in TALKATIVE:
            self.shown.say(record.getMessage())
        elif warns and not record.name.startswith("kedro."):  # Kedro's are about a failure that is explained anyway
            self.shown.library_warnings += 1


class _VerboseHandler(_ConsoleHandler):
    """Shows everything."""

    def __init__(self, shown: RunConsole) -> None:
        super().__init__(shown)
        self.setLevel(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self.shown.warnings += record.levelno >= logging.WARNING
        self.shown.say(self.format(record))


class _StderrToLog(io.TextIOBase):
    """Logs what libraries write to stderr, line by line; of a bar that is drawn over and over, its last state."""

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


class ConsoleHooks:
    """Tells the console of a run, where there is one, how far the run is."""

    @hook_impl(trylast=True)  # a run that is refused has not started
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        """Say what will run."""
        if _current is not None:
            _current.start(pipeline, None if run_params["only_missing_outputs"] else len(pipeline.nodes))

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Note that a node starts."""
        if _current is not None:
            _current.start_node(node)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        """Note an artefact."""
        if _current is not None:
            _current.note_output(node, dataset_name, data)

    @hook_impl(trylast=True)
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the summary."""
        if _current is not None:
            _current.finish(pipeline, catalog)
