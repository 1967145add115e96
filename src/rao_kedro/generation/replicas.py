"""Data parallelism: several generators of one model, each in its own process with its own GPUs.

vLLM's data parallelism is made for servers and mixtures of experts, whose engines work in lockstep. Its `LLM` runs one
engine per process, and its offline example divides the prompts among processes beforehand. Engines of a dense model
need no communication, so each replica takes the next call as soon as it is idle. The completions of a call depend on
the call alone, so they are the same on every replica.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from signal import SIGINT
from typing import Any, NamedTuple

from rao_kedro.config.generation import EngineParameters, SamplingParameters
from rao_kedro.errors import GenerationError, RaoKedroError
from rao_kedro.generation.base import Completion, Dtype, Generator, Likelihood
from rao_kedro.generation.engine_options import visible_gpus

PATIENCE = 10.0  # seconds for a process to end by itself, and again after it is terminated


class _Request(NamedTuple):
    """A method of a generator and its arguments."""

    method: str
    arguments: tuple[Any, ...]


class _Reply(NamedTuple):
    """A message of a replica: "ready", a "part" of its result, the "end" of the result, or an "error"."""

    kind: str
    content: Any = None


class Replicas:
    """A `ParallelGenerator`. Its processes end when it is closed or garbage-collected, or when this process ends."""

    def __init__(
        self,
        make: Callable[..., Generator],
        backend: str,
        model_dir: str | Path,
        *,
        dtype: Dtype = "bfloat16",
        max_model_len: int = 2048,
        engine: EngineParameters,
    ) -> None:
        """Start the processes, and wait until all of them have loaded the model.

        Args:
            make: Makes the generator of one process from the arguments below; a function that can be pickled.
            backend: "vllm" or "transformers".
            model_dir: A checkpoint directory with its tokenizer.
            dtype: Precision of weights and compute.
            max_model_len: Tokens of the longest prompt and its completion together.
            engine: `data_parallel_size` is the number of processes; the other options are those of each process.

        Raises:
            GenerationError: A process could not start.
        """
        self.size = engine.data_parallel_size
        one = engine.model_copy(update={"data_parallel_size": 1})
        how = {"dtype": dtype, "max_model_len": max_model_len, "engine": one}
        context = get_context("spawn")  # a process with threads or CUDA cannot be forked
        self._processes: list[SpawnProcess] = []
        self._connections: list[Connection] = []
        # With a priority, this runs at the exit of this process before multiprocessing waits for the replicas.
        self.close = Finalize(self, _end, args=(self._processes, self._connections), exitpriority=1)
        for environment in _environments(self.size, engine.gpus_per_engine):
            ours, theirs = context.Pipe()
            # Not a daemon, since daemons may not start processes: an engine that divides a model over GPUs does.
            process = context.Process(target=_work, args=(theirs, make, backend, str(model_dir), how))
            with _environment(environment):
                process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)
        with self._closed_on_failure():
            for connection in self._connections:
                self._receive(connection)

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], sampling: SamplingParameters
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield each prompt's `sampling.n` completions; see `Generator`. A single replica does all the work."""
        for _, position, completions in self.stream_calls([(prompt_ids, sampling)]):
            yield position, completions

    def stream_calls(
        self, calls: Sequence[tuple[Sequence[Sequence[int]], SamplingParameters]]
    ) -> Iterator[tuple[int, int, list[Completion]]]:
        """Yield the results of `stream` for each call as they arrive. An idle replica takes the next call.

        Raises:
            GenerationError: A replica failed or ended.
        """
        for i, (position, completions) in self._ask([_Request("stream", call) for call in calls]):
            yield i, position, completions

    def continuation_logps(
        self, prompt_ids: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[Likelihood]]:
        """Return the likelihood of each given continuation; see `Generator`. All replicas share the work."""
        n = min(self.size, len(prompt_ids))
        asked = [_Request("continuation_logps", (prompt_ids[i::n], continuations[i::n])) for i in range(n)]
        found: list[list[Likelihood]] = [[] for _ in prompt_ids]
        of_part: dict[int, int] = dict.fromkeys(range(n), 0)
        for i, logps in self._ask(asked):
            found[i + n * of_part[i]] = logps
            of_part[i] += 1
        return found

    def _ask(self, asked: Sequence[_Request]) -> Iterator[tuple[int, Any]]:
        """Yield the parts of the results, each with the position of its request."""
        waiting, free = deque(enumerate(asked)), deque(self._connections)
        busy: dict[Connection, int] = {}
        with self._closed_on_failure():  # a replica that is still working would answer a later request with old results
            while waiting or busy:
                while waiting and free:
                    position, one = waiting.popleft()
                    busy[connection := free.popleft()] = position
                    with suppress(BrokenPipeError):  # the replica has ended: `_receive` says so
                        connection.send(one)
                ready = wait([*busy])
                for connection in [one for one in busy if one in ready]:
                    reply = self._receive(connection)
                    if reply.kind == "part":
                        yield busy[connection], reply.content
                    else:
                        del busy[connection]
                        free.append(connection)

    def _receive(self, connection: Connection) -> _Reply:
        number = self._connections.index(connection)
        try:
            reply: _Reply = connection.recv()
        except (EOFError, ConnectionResetError):
            self._processes[number].join(PATIENCE)
            raise GenerationError(
                f"engine {number + 1} of {self.size} ended with exit status {self._processes[number].exitcode}; its "
                "last output is above"
            ) from None
        if reply.kind == "error":
            raise GenerationError(f"engine {number + 1} of {self.size}: {reply.content}")
        return reply

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _end(processes: Sequence[SpawnProcess], connections: Sequence[Connection]) -> None:
    """End the processes. A process that waits for a request ends by itself when the connection is closed."""
    for connection in connections:
        connection.close()
    for process in processes:
        process.join(PATIENCE)
        if process.is_alive():
            process.terminate()
            process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _environments(n: int, gpus_each: int) -> list[dict[str, str]]:
    """Return the environment variables of each process: its GPUs, or its share of the cores."""
    if gpus := visible_gpus():
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * gpus_each : (i + 1) * gpus_each])} for i in range(n)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // n))}] * n


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(
    connection: Connection, make: Callable[..., Generator], backend: str, model_dir: str, how: Mapping[str, Any]
) -> None:
    """Process requests until the connection is closed."""
    try:
        generator = make(backend, model_dir, **how)
        connection.send(_Reply("ready"))
        while True:
            request: _Request = connection.recv()
            for part in getattr(generator, request.method)(*request.arguments):
                connection.send(_Reply("part", part))
            connection.send(_Reply("end"))
    except RaoKedroError as error:
        connection.send(_Reply("error", str(error)))
        sys.exit(1)
    except KeyboardInterrupt:  # the parent process gets the interrupt too
        sys.exit(128 + SIGINT)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
