"""Parameters of text generation."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class SamplingParameters(BaseModel):
    """How to sample; nothing of a checkpoint's own sampling defaults (top-k, penalties) is added to it.

    Attributes:
        n: Completions per prompt.
        temperature: Logits are divided by it; 0 is greedy decoding.
        top_p: Only the most likely tokens that together have this probability are sampled.
        max_tokens: Tokens after which a completion is cut.
        seed: Seeds one call of a generator.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(1, ge=1)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    seed: int = Field(0, ge=0, lt=2**32)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0


class GenerationParameters(BaseModel):
    """Text generation as a user sets it.

    Attributes:
        sampling: How to sample.
        backend: "vllm", "transformers", or "auto": vLLM where it is installed.
        dtype: Precision of weights and compute.
        max_model_len: Tokens of the longest prompt and its completion together.
        shard_size: Prompts per shard, which is kept once all its prompts are answered. Greedy text is asked for all at
            once; samples shard by shard, since a resumed run samples what an uninterrupted one would have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    sampling: SamplingParameters = SamplingParameters()
    backend: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_model_len: int = Field(2048, ge=2)
    shard_size: int = Field(256, ge=1)


class GenerationSpec(GenerationParameters):
    """One table of generations.

    Attributes:
        model_dir: Checkpoint directory with its tokenizer.
        prompts_path: Parquet with columns prompt_id, messages and requirements.
        output_path: Parquet to write, one row per prompt and sample.
    """

    model_dir: Path
    prompts_path: Path
    output_path: Path

    @property
    def shards_dir(self) -> Path:
        """Directory of the finished shards, removed when the output is there."""
        return self.output_path.with_name(self.output_path.name + ".shards")
