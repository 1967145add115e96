"""Parameters of text generation."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from rao_kedro.errors import InferenceError
from rao_kedro.workers import Spec

# Options of an engine that say what is computed; all others say where and how fast.
CHANGE_WHAT_IS_COMPUTED = ("quantization", "kv_cache_dtype", "lora_path")

FinishReason = Literal["stop", "length"]


class SamplingParameters(BaseModel):
    """How to sample; nothing of a checkpoint's own sampling defaults (top-k, penalties) is added to it.

    In vLLM's order, with either backend: the repetition penalty, the temperature, min_p, top_k, top_p.

    Attributes:
        n: Completions per prompt.
        temperature: Logits are divided by it; 0 is greedy decoding.
        top_p: Only the most likely tokens that together have this probability are sampled.
        top_k: Only that many of the most likely tokens are sampled; 0 for all.
        min_p: Only tokens with at least this share of the likeliest token's probability are sampled.
        repetition_penalty: Positive logits of tokens that the prompt or the completion holds are divided by it,
            negative ones multiplied.
        stop: Texts, each of which ends a completion; the text ends before it, the tokens with it.
        max_tokens: Tokens after which a completion is cut.
        seed: Seeds one call of a generator.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        """Whether the most likely token is always taken."""
        return self.temperature == 0

    def changes_of_the_distribution(self) -> list[str]:
        """Return the settings with which tokens are not sampled from the model's own distribution.

        A stop text is none of them, nor is `max_tokens`: they end a completion, and leave its tokens as they are.
        """
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return [
            f"sampling.{name} {getattr(self, name)}" for name in names if getattr(self, name) != _default(self, name)
        ]


class EngineParameters(BaseModel):
    """Options of the engine that generates, by vLLM's names; what is not set is vLLM's own default.

    The backend transformers takes `data_parallel_size` and `lora_path`, and no other.

    Attributes:
        data_parallel_size: Engines beside each other, each with the whole model and GPUs of its own. They divide the
            shards of a table among them; a server divides its requests.
        tensor_parallel_size: GPUs that divide every layer of an engine.
        pipeline_parallel_size: GPUs that divide the layers of an engine.
        gpu_memory_utilization: Share of a GPU's memory for weights and KV cache.
        cpu_offload_gb: GiB of weights per GPU that stay in the machine's memory.
        quantization: How the weights are quantised when they are loaded, such as fp8; a checkpoint that is quantised
            already says so itself.
        kv_cache_dtype: Precision of the KV cache, such as fp8.
        enable_prefix_caching: Whether prompts that begin alike share what is computed for their beginning.
        max_num_seqs: Completions that are written at a time.
        max_num_batched_tokens: Tokens of one step.
        enforce_eager: Whether to compile nothing; null compiles on GPUs.
        lora_path: Directory of a LoRA adapter as peft saves it, whose model generates.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        """GPUs that one engine takes, where there are GPUs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def changed(self) -> dict[str, Any]:
        """Return the options that are not the defaults."""
        return self.model_dump(exclude_defaults=True)


class ServedEngineParameters(EngineParameters):
    """Options of vLLM as a server.

    Attributes:
        dtype: Precision of weights and compute; "auto" takes the checkpoint's, and float16 for float32.
    """

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"


class GenerationParameters(BaseModel):
    """Text generation as a user sets it.

    Attributes:
        sampling: How to sample.
        backend: "vllm", "transformers", or "auto": vLLM where it is installed.
        dtype: Precision of weights and compute.
        max_model_len: Tokens of the longest prompt and its completion together.
        shard_size: Prompts per shard, which is kept once all its prompts are answered. Greedy text is asked for all at
            once; samples shard by shard, since a resumed run samples what an uninterrupted one would have.
        chat_template_kwargs: Variables that the model's chat template reads when it writes the prompts, such as
            `enable_thinking`.
        engine: Options of the engine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

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
        """Return the settings, if any, with which responses are not samples of the policy whose log-probs are taken."""
        changes = self.sampling.changes_of_the_distribution()
        engine = self.engine.changed()
        return ", ".join(
            changes + [f"engine.{name} {engine[name]}" for name in CHANGE_WHAT_IS_COMPUTED if name in engine]
        )


def options_of_vllm_alone(engine: EngineParameters) -> str:
    """Return a sentence that refuses what the backend transformers cannot do; none if it can do it all."""
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
    error = InferenceError
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
