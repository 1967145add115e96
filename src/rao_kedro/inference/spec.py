"""What a node tells the generation worker. Imports nothing heavy."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rao_kedro.inference.generators import Backend, Dtype, SamplingParameters


class GenerationSpec(BaseModel):
    """One table of generations.

    Attributes:
        model_dir: Checkpoint directory with its tokenizer.
        prompts_path: Parquet with columns prompt_id, messages and requirements.
        output_path: Parquet to write, one row per prompt and sample.
        sampling: How to sample.
        backend: "vllm", "transformers", or "auto": vLLM where it is installed.
        dtype: Precision of weights and compute.
        max_model_len: Tokens of the longest prompt and its completion together.
        shard_size: Prompts per shard: what is lost at most when the worker is killed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_dir: Path
    prompts_path: Path
    output_path: Path
    sampling: SamplingParameters = SamplingParameters()
    backend: Backend = "auto"
    dtype: Dtype = "bfloat16"
    max_model_len: int = Field(2048, ge=2)
    shard_size: int = Field(64, ge=1)

    @property
    def shards_dir(self) -> Path:
        """Directory of the finished shards, removed when the output is there."""
        return self.output_path.with_name(self.output_path.name + ".shards")
