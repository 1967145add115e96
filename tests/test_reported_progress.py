"""How far long work is, from who does it to who shows it."""

import logging
import os
import sys

import pytest

from rao_kedro import progress
from rao_kedro.errors import RaoKedroError
from rao_kedro.processes import run_program
from rao_kedro.progress import Progress, ProgressLines, duration, listen_to_progress, progress_of, report_progress


@pytest.fixture
def clock(monkeypatch):
    """The time that progress is measured by, in seconds; its only item can be set."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_line_is_due_after_30_seconds_and_a_tenth_of_the_work_or_after_10_minutes(clock):
    lines = ProgressLines((said := []).append)
    for clock[0], done in ((0, 0), (10, 5), (29, 50), (31, 50), (60, 90), (62, 90), (93, 91), (663, 92), (700, 100)):
        lines(Progress("training", done, 100, "steps", rate=3512.4))
    assert said == [
        "training: 50 of 100 steps, 3512 tokens/s, 31.0 s left",
        "training: 90 of 100 steps, 3512 tokens/s, 6.9 s left",
        "training: 92 of 100 steps, 3512 tokens/s, 57.7 s left",
    ]


def test_the_time_left_counts_only_what_was_done_since_a_resume(clock):
    """50 of 100 were done before; 10 in 40 s leave 40 for 160 s."""
    lines = ProgressLines((said := []).append)
    for clock[0], done in ((0, 50), (40, 60)):
        lines(Progress("training", done, 100, "steps"))
    assert said == ["training: 60 of 100 steps, 3 min left"]


def test_work_that_starts_again_has_a_pace_of_its_own(clock):
    lines = ProgressLines((said := []).append)
    for clock[0], done in ((0, 0), (100, 100), (1000, 0), (1040, 50)):
        lines(Progress("scoring", done, 100))
    assert said[-1] == "scoring: 50 of 100 rows, 40.0 s left"


def test_durations_are_what_people_say():
    assert [duration(s) for s in (0.04, 99, 100, 3570, 12_000)] == [
        "0.0 s",
        "99.0 s",
        "2 min",
        "1 h 0 min",
        "3 h 20 min",
    ]


def test_a_callback_counts_what_is_done():
    heard = []
    with listen_to_progress(heard.append):
        one_more = progress_of("asking", 2, "requests")
        one_more(None), one_more(None)
    assert [(p.done, p.total) for p in heard] == [(0, 2), (1, 2), (2, 2)]


WORKER = """
import logging
from rao_kedro.errors import DataError
from rao_kedro.judges import judge
from rao_kedro.workers import worker_main
from rao_kedro.progress import KEPT, NOTICE, report_progress
from rao_kedro import processes

def main(spec):
    report_progress("training", 1, 2, "steps", 10.0)
    processes.logger.info("a detail")
    judge.logger.info("judging with j: 2 requests", extra=NOTICE)
    processes.logger.info("all of it is there", extra=KEPT)
    processes.logger.warning("two\\nlines")
    logging.getLogger(__name__).warning("of the worker itself")
    raise DataError("row 3 is bad\\nrow 4 is bad")

if __name__ == "__main__":
    worker_main(main)
"""


def test_progress_warnings_and_errors_of_a_worker_reach_its_launcher_whole(tmp_path, caplog):
    (tmp_path / "worker.py").write_text(WORKER)
    heard = []
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path / "spec.json")]
    with caplog.at_level(logging.INFO), listen_to_progress(heard.append), pytest.raises(RaoKedroError) as failed:
        run_program(command, os.environ | {"PYTHONUNBUFFERED": "1"})
    assert str(failed.value) == "row 3 is bad\nrow 4 is bad"
    assert heard == [Progress("training", 1, 2, "steps", 10.0)]
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == ["two", "lines", "of the worker itself"] and "a detail" in caplog.text
    notices = [(record.notice, record.getMessage()) for record in caplog.records if hasattr(record, "notice")]
    assert notices == [("said", "judging with j: 2 requests"), ("kept", "all of it is there")]


def test_without_a_console_progress_is_logged_now_and_then(clock, caplog):
    with caplog.at_level(logging.INFO, "rao_kedro.progress"):
        for clock[0], done in ((0, 0), (31, 10)):
            report_progress("a work of this test", done, 20)
    assert [record.getMessage() for record in caplog.records] == ["a work of this test: 10 of 20 rows, 31.0 s left"]
