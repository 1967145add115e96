"""Translates generation parameters to vLLM's options, and refuses options that this machine cannot satisfy.

Imports no engine.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rao_kedro.config.generation import (
    CHANGE_WHAT_IS_COMPUTED,
    EngineParameters,
    SamplingParameters,
    ServedEngineParameters,
    options_of_vllm_alone,
)
from rao_kedro.errors import ParameterError
from rao_kedro.identity import combined_hash, directory_hash

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values of vLLM's option max_lora_rank
ONLY_ON_GPUS = ("quantization", "gpu_memory_utilization", "cpu_offload_gb")


def sampling_options(sampling: SamplingParameters, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams`.

    Args:
        sampling: How to sample. Its seed is not used here: the engine is seeded.
        stop_ids: Tokens that end a completion.
    """
    return {
        "n": sampling.n if not sampling.greedy else 1,  # vLLM refuses n > 1 in greedy decoding
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": list(stop_ids),
        "detokenize": bool(sampling.stop),  # vLLM looks for stop texts in the text
    }


def engine_options(engine: EngineParameters, on_cpu: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's `LLM` for one engine. Data parallelism uses several engines, so it is left out.

    Raises:
        ParameterError: The LoRA adapter does not exist.
    """
    options = {"enforce_eager": on_cpu, **engine.changed()}  # on CPUs, compilation costs more than it saves
    options.pop("data_parallel_size", None)
    if (adapter := options.pop("lora_path", None)) is not None:
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _room_for_rank(adapter)}
    return options


def server_flags(engine: ServedEngineParameters, model: str) -> list[str]:
    """Return the command-line options of vLLM's server that serves a model under the name `model`.

    Raises:
        ParameterError: The LoRA adapter does not exist.
    """
    options = {"enforce_eager": True, **engine.changed()}  # compilation costs more than a judge's requests save
    adapter = options.pop("lora_path", None)
    flags = ["--served-model-name", model if adapter is None else f"{model}-without-adapter"]
    if adapter is not None:
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _room_for_rank(adapter)}
        flags += ["--lora-modules", f"{model}={adapter}"]
    for name, value in options.items():
        flag = name.replace("_", "-")
        flags += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return flags


def engine_identity(engine: EngineParameters) -> dict[str, str]:
    """Return the options that change the responses, with an adapter as its content hash; empty for the defaults.

    Raises:
        ParameterError: The LoRA adapter does not exist.
    """
    changed = engine.changed()
    decisive = {name: str(changed[name]) for name in CHANGE_WHAT_IS_COMPUTED if name in changed}
    if engine.lora_path is not None:
        _adapter_settings(engine.lora_path)
        decisive["lora_path"] = directory_hash(Path(engine.lora_path))
    return decisive


def identity_with(content: str, engine: EngineParameters) -> str:
    """Return a hash of a checkpoint and of the engine options that change its responses.

    Args:
        content: The checkpoint's content hash.
        engine: The options.
    """
    decisive = engine_identity(engine) | {k: str(v) for k, v in engine.changed().items() if k == "dtype"}
    return combined_hash(content, json.dumps(decisive, sort_keys=True)) if decisive else content


def refuse_impossible(engine: EngineParameters, backend: Literal["vllm", "transformers"]) -> None:
    """Refuse options that the backend lacks or that this machine cannot satisfy, and an adapter that does not exist.

    Raises:
        ParameterError: Names the option, what was found and what to do.
    """
    if backend == "transformers" and (problem := options_of_vllm_alone(engine)):
        raise ParameterError(problem)
    if not engine.changed():
        return
    if engine.lora_path is not None:
        _adapter_settings(engine.lora_path)
    needed, there = engine.gpus_per_engine * engine.data_parallel_size, len(visible_gpus())
    if there and needed > there:
        sizes = " x ".join(
            f"{name} {getattr(engine, name)}"
            for name in ("data_parallel_size", "tensor_parallel_size", "pipeline_parallel_size")
            if getattr(engine, name) > 1
        )
        raise ParameterError(
            f"engine: {sizes} needs {needed} GPUs, and this process sees {there}: lower one of these sizes"
        )
    if not there and engine.gpus_per_engine > 1 and not os.environ.get("VLLM_CPU_OMP_THREADS_BIND"):
        raise ParameterError(
            "engine.tensor_parallel_size and engine.pipeline_parallel_size divide a model over GPUs, and this machine "
            "has none: leave them out, or name the cores of each process in VLLM_CPU_OMP_THREADS_BIND, such as 0-7|8-15"
        )
    if not there and (named := [name for name in ONLY_ON_GPUS if getattr(engine, name) is not None]):
        raise ParameterError(
            f"engine.{named[0]} is for GPUs, and this machine has none: leave it out"
            + (
                "; the environment variable VLLM_CPU_KVCACHE_SPACE (GiB) sets the size of the KV cache on a CPU"
                if named[0] == "gpu_memory_utilization"
                else ""
            )
        )


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without initialising any."""
    import torch

    n, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:n] if named else [str(i) for i in range(n)]


def _room_for_rank(adapter: str) -> int:
    """Return the smallest value of vLLM's `max_lora_rank` that holds an adapter."""
    settings = _adapter_settings(adapter)
    rank = max(int(settings["r"]), *map(int, (settings.get("rank_pattern") or {}).values()), 1)
    room = next((room for room in LORA_RANKS if room >= rank), None)
    if room is None:
        raise ParameterError(f"engine.lora_path: {adapter} has rank {rank}, and vLLM's limit is {LORA_RANKS[-1]}")
    return room


def _adapter_settings(adapter: str) -> dict[str, Any]:
    path = Path(adapter) / "adapter_config.json"
    if not path.is_file():
        raise ParameterError(
            f"engine.lora_path: {path} does not exist: name the directory that peft's save_pretrained wrote, with "
            "adapter_config.json and adapter_model.safetensors"
        )
    return json.loads(path.read_text(encoding="utf-8"))
