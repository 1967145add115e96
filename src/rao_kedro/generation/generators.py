"""Makes the text generator of a backend, and imports the backend's module only when it is used."""

import importlib.util
import logging
from pathlib import Path
from typing import Literal

from rao_kedro.config.generation import EngineParameters
from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.generation.base import ONE_ENGINE, Dtype, Generator
from rao_kedro.generation.engine_options import refuse_impossible

logger = logging.getLogger(__name__)


def resolve_backend(backend: str) -> Literal["vllm", "transformers"]:
    """Return the backend to use: "auto" is vLLM if it is installed, else transformers.

    Raises:
        ParameterError: No backend has that name.
        GenerationError: The backend is "vllm", which is not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    match backend:
        case "transformers":
            return "transformers"
        case "vllm" if not installed:
            raise GenerationError(
                "vLLM is not installed: pip install 'rao_kedro[cpu]' (or [gpu]), or set backend: auto"
            )
        case "auto" if not installed:
            logger.warning("vLLM is not installed: transformers generates the text, several times more slowly")
            return "transformers"
        case "auto" | "vllm":
            return "vllm"
    raise ParameterError(f"generation backend {backend!r} is not one of auto, vllm, transformers")


def make_generator(
    backend: str,
    model_dir: str | Path,
    *,
    dtype: Dtype = "bfloat16",
    max_model_len: int = 2048,
    engine: EngineParameters = ONE_ENGINE,
) -> Generator:
    """Load a model into a generator.

    Args:
        backend: As in `resolve_backend`.
        model_dir: A checkpoint directory with its tokenizer.
        dtype: Precision of weights and compute.
        max_model_len: Tokens of the longest prompt and its completion together.
        engine: Options of the engine. With `data_parallel_size` above 1, each engine runs in its own process.

    Raises:
        ParameterError: No backend has that name, or an option of the engine cannot work with the backend or on this
            machine.
        GenerationError: The backend is not installed or could not start, or `max_model_len` exceeds the length up to
            which vLLM computes the model's rotary embedding as training does.
        ModelError: The checkpoint or the LoRA adapter cannot be opened.
    """
    name = resolve_backend(backend)
    refuse_impossible(engine, name)
    if name == "vllm":
        _refuse_other_rotary_embedding(model_dir, max_model_len)
    if engine.data_parallel_size > 1:
        from rao_kedro.generation.replicas import Replicas

        return Replicas(make_generator, name, model_dir, dtype=dtype, max_model_len=max_model_len, engine=engine)
    if name == "vllm":
        from rao_kedro.generation.vllm_backend import VllmGenerator

        return VllmGenerator(model_dir, dtype=dtype, max_model_len=max_model_len, engine=engine)
    from rao_kedro.generation.transformers_backend import TransformersGenerator

    return TransformersGenerator(model_dir, dtype=dtype, lora_path=engine.lora_path)


def _refuse_other_rotary_embedding(model_dir: str | Path, max_model_len: int) -> None:
    """Refuse a length at which vLLM would compute all rows with the rotary embedding of long rows."""
    from transformers import AutoConfig

    from rao_kedro.models.rotary import rotary_limit

    limit = rotary_limit(AutoConfig.from_pretrained(str(model_dir)))
    if limit is not None and max_model_len > limit:
        raise GenerationError(
            f"max_model_len is {max_model_len}. Above {limit}, the rotary embedding (dynamic or longrope) of "
            f"{model_dir} differs between vLLM and training: lower max_model_len to {limit} or less"
        )
