"""The file in which all of a run is logged."""

import logging
import os
import sys

from rao_kedro.framework import run_log
from rao_kedro.framework.run_log import log_everything, new_log


def test_old_logs_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "KEPT_LOGS", 3)
    (tmp_path / "logs").mkdir()
    for i in range(5):
        (tmp_path / f"logs/run_2026010{i}.log").touch()
    new_log(tmp_path).touch()
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names[:2] == ["run_20260103.log", "run_20260104.log"] and len(names) == 3
    assert names[2].endswith(f"_{os.getpid()}.log")


def test_the_file_holds_all_records_and_stderr_and_logging_is_as_before_afterwards(tmp_path):
    root = logging.getLogger()
    handlers, shown = list(root.handlers), []
    with log_everything(tmp_path / "log", shown.append, redirect=True):
        logging.getLogger("rao_kedro.training").debug("a detail")
        print("half\rwhole\nraw", file=sys.stderr)
    text = (tmp_path / "log").read_text()
    assert "DEBUG   rao_kedro.training: a detail" in text
    assert "stderr: whole" in text and "stderr: raw" in text and "half" not in text
    assert [record.getMessage() for record in shown] == ["a detail", "whole", "raw"]
    assert root.handlers == handlers and not isinstance(sys.stderr, run_log._StderrToLog)
