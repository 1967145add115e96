"""Parameters of text generation."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, model_validator

from rao_kedro.config.base import Parameters
from rao_kedro.errors import GenerationError
from rao_kedro.workers import Spec

# Options of an engine that change what is computed; all others change only where and how fast.
CHANGE_WHAT_IS_COMPUTED = ("quantization", "kv_cache_dtype", "lora_path")

FinishReason = Literal["stop", "length"]


class SamplingParameters(Parameters):
    """How responses are sampled, by vLLM's names. A checkpoint's own sampling defaults are ignored.

    Both backends apply the settings in vLLM's order: repetition penalty, temperature, min_p, top_k, top_p.

    Attributes:
        n: Responses per prompt.
        temperature: Divides the logits; 0 is greedy decoding.
        top_p: Only the likeliest tokens are sampled that together have this probability.
        top_k: Only this many of the likeliest tokens are sampled; 0 for all.
        min_p: Only tokens with at least this share of the likeliest token's probability are sampled.
        repetition_penalty: Divides positive logits of tokens that the prompt or the response contains, and multiplies
            negative ones.
        stop: Texts that end a response. The response's text ends before the stop text; its token ids include it.
        max_tokens: Tokens after which a response is cut.
        seed: Seeds each call of a generator.
    """

    n: int = Field(1, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    max_tokens: int = Field(256, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def greedy(self) -> bool:
        """Whether decoding is greedy."""
        return self.temperature == 0

    def changes_of_the_distribution(self) -> list[str]:
        """Return the settings that make tokens samples of another distribution than the model's own.

        `stop` and `max_tokens` are not among them: they end a response, and leave its tokens as they are.
        """
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return [
            f"sampling.{name} {getattr(self, name)}" for name in names if getattr(self, name) != _default(self, name)
        ]


class EngineParameters(Parameters):
    """Options of the engine that generates, by vLLM's names. An option that is not set has vLLM's own default.

    The backend transformers has only `data_parallel_size` and `lora_path`.

    Attributes:
        data_parallel_size: Number of engines, each with the whole model and GPUs of its own. They share the shards of a
            table; a server shares its requests among them.
        tensor_parallel_size: GPUs over which every layer of an engine is split.
        pipeline_parallel_size: GPUs over which the layers of an engine are distributed.
        gpu_memory_utilization: Share of a GPU's memory for weights and KV cache.
        cpu_offload_gb: GiB of weights per GPU that stay in the machine's memory.
        quantization: How weights are quantised while they are loaded, such as fp8. A checkpoint that is already
            quantised needs no setting.
        kv_cache_dtype: Precision of the KV cache, such as fp8.
        enable_prefix_caching: Whether the KV cache of a common beginning is shared by the prompts that have it.
        max_num_seqs: Maximal number of responses that are written at the same time.
        max_num_batched_tokens: Maximal number of tokens of one step.
        enforce_eager: Whether compilation is switched off; null compiles on GPUs.
        lora_path: Directory of a LoRA adapter, as peft saves it, with which the model generates.
    """

    data_parallel_size: int = Field(1, ge=1)
    tensor_parallel_size: int = Field(1, ge=1)
    pipeline_parallel_size: int = Field(1, ge=1)
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    cpu_offload_gb: float | None = Field(None, ge=0)
    quantization: str | None = None
    kv_cache_dtype: str | None = None
    enable_prefix_caching: bool | None = None
    max_num_seqs: int | None = Field(None, ge=1)
    max_num_batched_tokens: int | None = Field(None, ge=1)
    enforce_eager: bool | None = None
    lora_path: str | None = None

    @property
    def gpus_per_engine(self) -> int:
        """Number of GPUs per engine, on a machine with GPUs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def changed(self) -> dict[str, Any]:
        """Return the options that differ from the defaults."""
        return self.model_dump(exclude_defaults=True)


class ServedEngineParameters(EngineParameters):
    """Options of vLLM as a server.

    Attributes:
        dtype: Precision of weights and computation. `auto` takes that of the checkpoint, and float16 for float32.
    """

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"


class GenerationParameters(Parameters):
    """How a model generates responses.

    Attributes:
        sampling: How responses are sampled.
        backend: `vllm`, `transformers`, or `auto`: vLLM where it is installed.
        dtype: Precision of weights and computation.
        max_model_len: Tokens of the longest prompt together with its response.
        shard_size: Prompts per shard; a shard is kept once it is complete. Samples are generated shard by shard, so
            that a resumed run samples what an uninterrupted one would have. Greedy decoding takes all prompts at once.
        chat_template_kwargs: Variables of the model's chat template, such as `enable_thinking`.
        engine: Options of the engine.
    """

    sampling: SamplingParameters = SamplingParameters()
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    max_model_len: int = Field(2048, ge=2)
    shard_size: int = Field(256, ge=1)
    chat_template_kwargs: dict[str, Any] = {}
    engine: EngineParameters = EngineParameters()

    @model_validator(mode="after")
    def _backend_has_the_options(self) -> Self:
        if self.backend == "transformers" and (problem := options_of_vllm_alone(self.engine)):
            raise ValueError(problem)
        return self

    def why_not_the_policy(self) -> str:
        """Return the settings that make responses samples of another distribution than the policy's own, or ""."""
        changes = self.sampling.changes_of_the_distribution()
        engine = self.engine.changed()
        return ", ".join(
            changes + [f"engine.{name} {engine[name]}" for name in CHANGE_WHAT_IS_COMPUTED if name in engine]
        )


def options_of_vllm_alone(engine: EngineParameters) -> str:
    """Return a sentence that refuses the options that the backend transformers does not have, or ""."""
    others = sorted({*engine.changed()} - {"data_parallel_size", "lora_path"})
    if not others:
        return ""
    return (
        f"engine.{' and engine.'.join(others)}: the backend transformers has no such option, but data_parallel_size "
        "and lora_path: leave it out, or set backend: vllm"
    )


def _default(model: BaseModel, name: str) -> Any:
    return type(model).model_fields[name].default


class GenerationSpec(Spec, GenerationParameters):
    """Generates one table of responses.

    Attributes:
        model_dir: Checkpoint directory with its tokenizer.
        prompts_path: Parquet with columns prompt_id, messages and requirements.
        output_path: Parquet to write, one row per prompt and sample.
    """

    worker = "rao_kedro.generation.worker"
    error = GenerationError
    advice = "Finished shards are kept: running again goes on from there."

    model_dir: Path
    prompts_path: Path
    output_path: Path

    @property
    def title(self) -> str:  # noqa: D102
        return f"text generation with {self.model_dir}"

    @property
    def spec_path(self) -> Path:  # noqa: D102
        return self.output_path.with_name("generation.json")

    @property
    def shards_dir(self) -> Path:
        """Directory of the finished shards, removed when the output is there."""
        return self.output_path.with_name(self.output_path.name + ".shards")
