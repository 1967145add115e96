"""Maps a function over batches in several processes, in the order of the batches, with few of them in memory."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from rao_kedro.errors import DataError

In = TypeVar("In")
Out = TypeVar("Out")
AHEAD = 2  # batches per process that are computed before they are asked for

_function: Callable[[Any], Any] | None = None


def map_batches(function: Callable[[In], Out], batches: Iterable[In], num_proc: int) -> Iterator[Out]:
    """Yield what a function returns for each batch, in their order.

    Args:
        function: Can be pickled, as its batches and results can.
        batches: Read as they are needed.
        num_proc: Processes; 1 computes in this one, where the tokenizer may use threads.

    Raises:
        DataError: A process was killed.
    """
    if num_proc == 1:
        yield from map(function, batches)
        return
    spawn = multiprocessing.get_context("spawn")  # a process that is forked from one with threads may hang
    waiting: deque[Future[Out]] = deque()
    with ProcessPoolExecutor(num_proc, spawn, initializer=_start, initargs=(function,)) as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(_call, batch))
                if len(waiting) >= AHEAD * num_proc:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                f"one of {num_proc} processes (data.num_proc) was killed, perhaps since memory ran out: lower it"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process has a core
    _function = function


def _call(batch: Any) -> Any:
    assert _function is not None
    return _function(batch)
