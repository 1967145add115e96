"""Batches in several processes: in their order, few at a time, and a sentence where a process dies."""

import os
import signal

import pytest

from rao_kedro.data.parallel import AHEAD, map_batches
from rao_kedro.errors import DataError


def double(batch):
    return 2 * batch, os.getpid()


def die(batch):
    os.kill(os.getpid(), signal.SIGKILL)


def counted(n, taken):
    for i in range(n):
        taken.append(i)
        yield i


def test_results_come_in_order_from_other_processes_and_few_batches_are_read_ahead():
    taken = []
    for done, (result, process) in enumerate(map_batches(double, counted(20, taken), 2)):
        assert result == 2 * done and process != os.getpid()
        assert len(taken) <= done + 2 * AHEAD
    assert len(taken) == 20


def test_one_process_computes_here_batch_by_batch():
    taken = []
    for done, (result, process) in enumerate(map_batches(double, counted(3, taken), 1)):
        assert (result, process, len(taken)) == (2 * done, os.getpid(), done + 1)


def test_a_killed_process_is_a_sentence():
    with pytest.raises(DataError, match=r"one of 2 processes \(data.num_proc\) was killed, perhaps since memory"):
        list(map_batches(die, range(3), 2))
