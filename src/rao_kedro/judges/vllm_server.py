"""Serves a model with vLLM on this machine while it is needed."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

from rao_kedro.config.generation import ServedEngineParameters
from rao_kedro.errors import GenerationError
from rao_kedro.generation.engine_options import refuse_impossible, server_flags
from rao_kedro.generation.generators import resolve_backend
from rao_kedro.processes import stop_at_end

CPU_KV_CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}  # GiB

ONE_ENGINE = ServedEngineParameters()

_servers = ExitStack()


@cache
def serve_once(
    model_dir: str | Path,
    model: str,
    max_model_len: int,
    max_logprobs: int,
    patience: float,
    engine: ServedEngineParameters = ONE_ENGINE,
) -> str:
    """Return the base URL of a server; the first call with these arguments starts it.

    The server runs until `stop_servers` is called or this process ends. Arguments and errors are those of `serve`.
    """
    return _servers.enter_context(serve(model_dir, model, max_model_len, max_logprobs, patience, engine))


@atexit.register
def stop_servers() -> None:
    """End all servers that `serve_once` started, which frees their memory."""
    _servers.close()
    serve_once.cache_clear()


@contextmanager
def serve(
    model_dir: str | Path,
    model: str,
    max_model_len: int,
    max_logprobs: int,
    patience: float,
    engine: ServedEngineParameters = ONE_ENGINE,
) -> Iterator[str]:
    """Serve a checkpoint to this machine only, and yield the server's base URL.

    Args:
        model_dir: A checkpoint directory.
        model: The model's name in requests.
        max_model_len: Tokens of a dialogue and its answer.
        max_logprobs: Limit on the `top_logprobs` of a request.
        patience: Seconds until the server must be ready.
        engine: vLLM's options. With a LoRA adapter, `model` names the model with the adapter.

    Raises:
        ParameterError: This machine cannot satisfy an option, or the adapter does not exist.
        GenerationError: vLLM is not installed, or the server did not start; the message ends with its last lines.
    """
    resolve_backend("vllm")
    refuse_impossible(engine, "vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm"]
    command += ["--max-model-len", str(max_model_len), "--max-logprobs", str(max_logprobs)]
    command += server_flags(engine, model)
    with TemporaryFile() as said, _ended_by_sigterm():
        process = subprocess.Popen(
            command, env=CPU_KV_CACHE | os.environ, stdout=said, stderr=said, start_new_session=True
        )
        with stop_at_end(process):
            deadline = time.monotonic() + patience
            while not _healthy(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").splitlines()[-15:]
                    why = f"not ready after {patience:g} s" if process.poll() is None else "it ended"
                    raise GenerationError(f"vLLM could not serve {model_dir}, {why}:\n" + "\n".join(lines))
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM end this process with SystemExit, so that the server does not outlive it.

    An existing handler is kept. Outside the main thread, where Python can set no handler, nothing changes.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
