"""What a run shows, and what only its log file holds."""

import io
import logging
import re
import sys

import click
import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from rich.console import Console

from rao_kedro.errors import DataError
from rao_kedro.framework.console import ConsoleHooks, RowCount, RunConsole, list_outputs, run_console
from rao_kedro.progress import KEPT, NOTICE, report_progress


def run(project, *functions, verbose=False):
    """Run a node per function as `kedro run` would, each with an output of the function's name; return the log.

    Each function but the first takes what the one before returned.
    """
    inputs = [None, *(function.__name__ for function in functions[:-1])]
    given = zip(functions, inputs, strict=True)
    nodes = [Node(function, before, function.__name__, name=f"{function.__name__}_node") for function, before in given]
    catalog = DataCatalog({node.outputs[0]: MemoryDataset() for node in nodes})
    hooks = _create_hook_manager()
    hooks.register(ConsoleHooks())
    pipeline = Pipeline(nodes)
    try:
        with run_console(project, verbose=verbose):
            params = {"only_missing_outputs": False}
            hooks.hook.before_pipeline_run(run_params=params, pipeline=pipeline, catalog=catalog)
            SequentialRunner().run(pipeline, catalog, hooks)
            hooks.hook.after_pipeline_run(run_params=params, run_result={}, pipeline=pipeline, catalog=catalog)
    finally:
        (log,) = (project / "logs").glob("run_*.log")
    return log.read_text()


def test_a_run_shows_a_line_per_node_and_warnings_of_ours_and_logs_everything(tmp_path, capsys):
    def table():
        logging.getLogger("rao_kedro.training.loop").info("a detail")
        logging.getLogger("rao_kedro.training.loop").warning("the loss rose")
        logging.getLogger("rao_kedro.framework.session").info("what is stale")
        logging.getLogger("vllm").warning("a banner")
        logging.getLogger("py.warnings").warning("numpy said")
        print("half\rwhole\nraw", file=sys.stderr)
        return pd.DataFrame({"a": [1, 2]})

    def empty(table):
        return table[:0]

    handlers, level = list(logging.getLogger().handlers), logging.getLogger("rao_kedro").level
    log = run(tmp_path, table, empty)
    start, warning, stale, first, second, end, warned = capsys.readouterr().out.splitlines()
    assert start.startswith("2 nodes; everything is logged in logs/run_")
    assert (warning, stale) == ("warning: the loss rose", "what is stale")
    assert first.split() == ["1/2", "table_node", "0.0", "s", "table", "(2", "rows)"]
    assert second.split() == ["2/2", "empty_node", "0.0", "s"]
    assert end.startswith("finished in ") and warned == "warnings: 1 shown above, 2 of libraries in the log"
    for said in ("a detail", "the loss rose", "a banner", "numpy said", "stderr: whole", "stderr: raw", "Saving data"):
        assert said in log
    assert "half" not in log
    assert logging.getLogger().handlers == handlers and logging.getLogger("rao_kedro").level == level


def test_a_run_shows_what_it_keeps_and_where_it_goes_on(tmp_path, capsys):
    logger = logging.getLogger("rao_kedro.workers")

    def kept():
        logger.info("finished, from the same parameters and inputs", extra=KEPT)
        return 1

    def partly(kept):
        report_progress("a work of this test", 3, 9)
        logger.info("finished, from the same parameters and inputs", extra=KEPT)
        return 1

    def resumed(partly):
        logger.info("goes on after step 3 of 9", extra=NOTICE)
        return 1

    run(tmp_path, kept, partly, resumed)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:-2]]
    assert [line[4:] for line in lines if line[0][1] == "/"] == [["kept:", "kept"], ["partly"], ["resumed"]]
    assert ["resumed_node:", "goes", "on", "after", "step", "3", "of", "9"] in lines


def failing(error):
    def broken(*inputs):
        raise error

    return broken


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_error_of_ours_is_its_sentence_and_its_traceback_is_in_the_log(tmp_path, capsys, wrapped):
    error = DataError(f"{tmp_path}/train.jsonl: row 3 has no prompt")
    if wrapped:
        outer = DatasetError("Failed while loading data from dataset")
        outer.__cause__ = error
        error = outer

    with pytest.raises(click.exceptions.Exit) as ended:
        run(tmp_path, _one, failing(error))
    _, _, sentence, done, place = capsys.readouterr().out.splitlines()
    assert ended.value.exit_code == 1
    assert sentence == "error in broken_node: train.jsonl: row 3 has no prompt"
    assert done == "1 node is done: `kedro run --only-stale-outputs`, with the same options, goes on there."
    assert place.startswith("The log is logs/run_") and place.endswith("`--verbose` shows it, with the traceback.")
    (log,) = (tmp_path / "logs").glob("*.log")
    assert "Traceback (most recent call last)" in log.read_text()


def test_a_long_error_of_a_run_takes_ten_lines_with_where_it_happened_and_where_the_log_is(tmp_path, capsys):
    with pytest.raises(click.exceptions.Exit):
        run(tmp_path, failing(DataError("\n".join(map(str, range(50))))))
    _, first, *_, last = said = capsys.readouterr().out.splitlines()
    assert first == "error in broken_node: 0" and last.startswith("The log is logs/run_") and len(said) == 10


def test_verbose_shows_all_that_is_logged_and_leaves_stderr_alone(tmp_path, capsys):
    def broken():
        print("to stderr", file=sys.stderr)
        logging.getLogger("rao_kedro.training.loop").info("a detail")
        raise DataError("no rows")

    with pytest.raises(click.exceptions.Exit):
        run(tmp_path, broken, verbose=True)
    said = capsys.readouterr()
    assert "to stderr" in said.err and "a detail" in said.out and "Running node" in said.out
    assert "Traceback (most recent call last)" in said.out and "error in broken_node: no rows" in said.out


def test_a_logging_configuration_of_the_users_own_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("KEDRO_LOGGING_CONFIG", "mine.yml")
    mine = logging.StreamHandler(heard := io.StringIO())
    logging.getLogger().addHandler(mine)
    try:
        assert "Running node" in run(tmp_path, _one)
    finally:
        logging.getLogger().removeHandler(mine)
    assert "Running node" in heard.getvalue()


def _one():
    return 1


def test_a_file_is_no_terminal_even_if_colours_are_forced(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    run(tmp_path, _one)
    start, line, _, _ = capsys.readouterr().out.splitlines()
    assert "\x1b" not in start + line and len(start) > 40


def test_a_terminal_has_a_bar_with_what_is_done_the_speed_and_the_time_left(tmp_path, monkeypatch):
    shown = RunConsole(tmp_path, tmp_path / "log", verbose=False)
    monkeypatch.setenv("TERM", "xterm")
    shown.console = Console(file=(screen := io.StringIO()), force_terminal=True, width=80, color_system=None)
    shown.terminal = True
    node = Node(_one, None, "one", name="rao.train")
    with shown.show_progress():
        shown.start(Pipeline([node]), 1)
        shown.start_node(node)
        report_progress("training rao", 0, 90, "steps")
        report_progress("training rao", 45, 90, "steps", rate=3512.4)
        shown.bars.refresh()
        shown.note_output(node, "one", 1)
    drawn = screen.getvalue()
    assert "45 of 90 steps, 3512 tokens/s, 0.0 s left" in drawn
    assert re.search(r"1/1 rao\.train +0\.0 s  one\s", drawn)


def test_outputs_are_listed_with_the_rows_of_tables_and_of_table_files():
    saved = {"a@path": RowCount(3), "b": pd.DataFrame({"x": [1]}), "empty@path": RowCount(0), "number": 1}
    assert list_outputs(saved) == "a (3 rows), b (1 row), number"
