"""What `kedro run` shows: a line per node, a bar for long work, a summary, errors as sentences.

Notebooks and programs that run a session see none of this: they have Kedro's logging, and exceptions. Everything else
is in the run's log (`rao_kedro.framework.run_log`). Knows nothing of what tables hold (`rao_kedro.framework.summary`).
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from rao_kedro.data.table_files import count_rows
from rao_kedro.framework.error_text import error_sentences, fit_error
from rao_kedro.framework.run_log import PACKAGE, log_everything, new_log
from rao_kedro.framework.summary import shown_path, summary
from rao_kedro.progress import KEPT, NOTICE, Pace, Progress, ProgressLines, duration, in_words, listen_to_progress

FILE_WIDTH = 80  # characters of a line of an error where there is no terminal
OUTPUTS_SHOWN = 3
# Modules whose INFO is for the user. Of the others in this package, only warnings and errors are.
TALKATIVE = {f"{PACKAGE}.{name}" for name in ("framework.console", "framework.session", "framework.hooks")}
_VERBOSE_FORMAT = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")


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
        self.running: dict[str, _RunningNode] = {}
        self.n_nodes, self.n_done, self.started = 0, 0, time.monotonic()
        self.warnings, self.library_warnings, self.width = 0, 0, 0
        self._lines = ProgressLines(self.say)
        self._lock = threading.Lock()  # nodes may run in threads

    @contextmanager
    def show_progress(self) -> Iterator[None]:
        """Show a bar, while entered, where there is a terminal; lines of progress elsewhere."""
        with ExitStack() as stack:
            if self.terminal and not self.verbose:
                columns = (TextColumn("{task.description}"), BarColumn(None), _StateColumn(Column(no_wrap=True)))
                self.bars = Bars(*columns, console=self.console, transient=True, expand=True, redirect_stderr=False)
                stack.enter_context(self.bars)
            stack.enter_context(listen_to_progress(self.hear))
            yield
        self.bars = None

    def say(self, text: str, style: str | None = None, crop: bool = False) -> None:
        """Print text above the bar; a terminal cuts it at its width or breaks it there, a file has whole lines.

        Paths in the project are shown relative to it.
        """
        text = text.replace(f"{self.project}{os.sep}", "")
        if not self.terminal:
            self.console.print(text, soft_wrap=True)
        elif crop:
            self.console.print(text, style=style, no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(text, style=style)

    def show_record(self, record: logging.LogRecord) -> None:
        """Show a log record if it is for the user: warnings of this package, notices, and what talkative modules say.

        Warnings of libraries are counted. A verbose console shows everything.
        """
        if getattr(record, "notice", None) == KEPT["notice"] and (running := self._only_running()) is not None:
            running.kept = True
        ours = record.name.split(".")[0] == PACKAGE
        warns = record.levelno >= logging.WARNING
        if self.verbose:
            self.warnings += warns
            self.say(_VERBOSE_FORMAT.format(record))
        elif ours and warns:
            self.warnings += 1
            self.say(f"warning: {record.getMessage()}", style="yellow")
        elif getattr(record, "notice", None) == NOTICE["notice"]:
            running = self._only_running()
            self.say(f"{running.node.name}: {record.getMessage()}" if running else record.getMessage())
        elif record.name in TALKATIVE and record.levelno >= logging.INFO:
            self.say(record.getMessage())
        elif warns and not record.name.startswith("kedro."):  # Kedro's are about a failure that is explained anyway
            self.library_warnings += 1

    def start(self, pipeline: Pipeline, n_nodes: int | None) -> None:
        """Say what will run, where it is known how many nodes."""
        self.n_nodes = n_nodes or 0
        self.width = max((len(node.name) for node in pipeline.nodes), default=0)
        count = f"{len(pipeline.nodes)} node{'s'[: len(pipeline.nodes) != 1]}"
        self.say(f"{count}; everything is logged in {shown_path(self.log, self.project)}")

    def start_node(self, node: Node) -> None:
        """Note that a node starts."""
        with self._lock:
            self.running[node.name] = running = _RunningNode(node)
            if self.bars is not None:
                running.bar = self.bars.add_task(node.name, total=None, state="")

    def note_output(self, node: Node, name: str, data: Any) -> None:
        """Note an artefact of a node, which ends with its last one."""
        running = self.running.get(node.name)
        if running is None:
            return
        running.unsaved.discard(name)
        running.saved[name] = data
        if not running.unsaved:
            self._end_node(running)

    def _end_node(self, running: "_RunningNode") -> None:
        with self._lock:
            del self.running[running.node.name]
            self.n_done += 1
            if self.bars is not None and running.bar is not None:
                self.bars.remove_task(running.bar)
                self.bars.refresh()
            of = f"/{self.n_nodes}" if self.n_nodes else ""
            counter = f"{self.n_done}{of}".rjust(2 * len(str(self.n_nodes)) + 1)
            seconds = duration(time.monotonic() - running.started)
            outputs = list_outputs(
                {name: running.saved[name] for name in running.node.outputs if name in running.saved}
            )
            kept = "kept: " if running.kept and not running.works else ""
            self.say(f"{counter} {running.node.name:{self.width}} {seconds:>8}  {kept}{outputs}".rstrip(), crop=True)

    def hear(self, progress: Progress) -> None:
        """Show how far the running node is."""
        if (running := self._only_running()) is not None:
            running.works = True
        if self.bars is None or running is None:
            self._lines(progress._replace(what=f"{running.node.name}: {progress.what}" if running else progress.what))
        elif running.bar is not None:
            if running.work != progress.what:
                running.work, running.pace = progress.what, Pace(progress)
            assert running.pace is not None
            state = in_words(progress, running.pace.seconds_left(progress))
            self.bars.update(running.bar, completed=progress.done, total=progress.total, state=state)

    def _only_running(self) -> "_RunningNode | None":
        with self._lock:
            return next(iter(self.running.values())) if len(self.running) == 1 else None

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
        where = f" in {next(iter(self.running))}" if len(self.running) == 1 else ""
        root = f"{self.project}{os.sep}"  # taken out before sentences are broken into lines
        first, *others = (sentence.replace(root, "") for sentence in error_sentences(error))
        log = f"The log is {shown_path(self.log, self.project)}"
        advice = [*self._resuming(), log + ("." if self.verbose else "; `--verbose` shows it, with the traceback.")]
        width = self.console.width if self.terminal else FILE_WIDTH
        for line in fit_error([f"error{where}: {first}", *others], advice, width):
            self.say(line, style="red")
        for line in advice:
            self.say(line)

    def interrupt(self) -> None:
        """Say that the user ended the run."""
        for line in (f"interrupted; the log is {shown_path(self.log, self.project)}", *self._resuming()):
            self.say(line)

    def _resuming(self) -> list[str]:
        """Return how to resume the run, if any node has ended."""
        done = f"{self.n_done} node{' is' if self.n_done == 1 else 's are'} done"
        goes_on = "`kedro run --only-stale-outputs`, with the same options, goes on there."
        return [f"{done}: {goes_on}"] if self.n_done else []


class _StateColumn(ProgressColumn):
    """How far the node is; where it does not say so, for how long it has been running."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"] or duration(task.elapsed or 0.0), no_wrap=True)


class _RunningNode:
    """A node that is running, with what was saved of it."""

    def __init__(self, node: Node) -> None:
        self.node, self.started = node, time.monotonic()
        self.unsaved, self.saved = set(node.outputs), dict[str, Any]()
        self.kept, self.works = False, False  # all its work was done before; it has reported progress
        self.bar: Any = None
        self.work: str | None = None
        self.pace: Pace | None = None


class RowCount(int):
    """The number of rows of a table that was saved as a file."""


def list_outputs(saved: Mapping[str, Any]) -> str:
    """Return the names of a node's outputs, tables with their rows; empty tables are left out.

    Args:
        saved: The outputs by name: tables, `RowCount`s of table files, or anything else.
    """
    parts = []
    for name, data in saved.items():
        stem = name.split("@")[0]
        rows = RowCount(len(data)) if isinstance(data, pd.DataFrame) else data
        if not isinstance(rows, RowCount):
            parts.append(stem)
        elif rows:
            parts.append(f"{stem} ({rows} row{'s'[: rows != 1]})")
    more = [f"{len(parts) - OUTPUTS_SHOWN} more"] if len(parts) > OUTPUTS_SHOWN else []
    return ", ".join([*parts[:OUTPUTS_SHOWN], *more])


_current: RunConsole | None = None


@contextmanager
def run_console(project: Path, verbose: bool) -> Iterator[None]:
    """Show a run while entered, and log all of it in `logs` of the project.

    Args:
        project: The project's directory.
        verbose: Show all that is logged, tracebacks included.

    Raises:
        click.exceptions.Exit: The run failed, and the console said why.
    """
    global _current
    console = _current = RunConsole(project, new_log(project), verbose)
    try:
        with log_everything(console.log, console.show_record, redirect=not verbose), console.show_progress():
            yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        console.interrupt()
        raise
    except Exception as error:
        console.explain(error)
        raise click.exceptions.Exit(1) from error
    finally:
        _current = None


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

    def __init__(self) -> None:
        """Start without tables."""
        self._rows: dict[str, RowCount] = {}

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Count the rows of a table's file, which saving moves."""
        if isinstance(data, Path) and data.suffix == ".parquet":
            self._rows[dataset_name] = RowCount(count_rows(data))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        """Note an artefact."""
        if _current is not None:
            _current.note_output(node, dataset_name, self._rows.pop(dataset_name, data))

    @hook_impl(trylast=True)
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the summary."""
        if _current is not None:
            _current.finish(pipeline, catalog)
