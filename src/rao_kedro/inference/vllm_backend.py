"""Generates with vLLM, on a GPU or with its CPU build. Importing this module imports vLLM.

The engine runs inside the calling process: workers are processes of their own already, and with the engine in a
second one the batches, and so the sampled text, would depend on timing. Where a model is divided over GPUs, the engine
starts a process for each of them.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",  # else a warning per weight that is cast
    # vLLM would keep one thread only, thinking of a server; unset, all cores that we may use
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
}
for _name, _value in _ENVIRONMENT.items():  # vLLM reads these when it is imported
    os.environ.setdefault(_name, _value)

from rao_kedro.errors import InferenceError  # noqa: E402
from rao_kedro.inference.engine_options import engine_options, sampling_options  # noqa: E402
from rao_kedro.inference.generators import ONE_ENGINE, Completion, Dtype, complete  # noqa: E402
from rao_kedro.models.chat import end_of_turn_ids, load_tokenizer  # noqa: E402
from rao_kedro.schemas.generation import EngineParameters, SamplingParameters  # noqa: E402

try:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput
except (ImportError, RuntimeError, OSError) as error:
    raise InferenceError(f"vLLM is installed but cannot be imported ({error}): set backend: transformers") from error


class ReseedableWorker:
    """Extends vLLM's worker: the engine's seed can be set again.

    A seed on the request would do, but vLLM's CPU build fails on it ("CPU Generator does not use offset").
    """

    def reseed(self, seed: int) -> None:
        """Seed the generators that sampling uses."""
        import torch

        torch.manual_seed(seed)


class VllmGenerator:
    """Continuous batching with a paged KV cache."""

    def __init__(
        self,
        model_dir: str | Path,
        dtype: Dtype = "bfloat16",
        max_model_len: int = 2048,
        engine: EngineParameters = ONE_ENGINE,
    ) -> None:
        """Start an engine.

        Args:
            model_dir: A checkpoint directory with its tokenizer.
            dtype: Precision of weights and compute.
            max_model_len: Tokens of the longest prompt and its completion together.
            engine: vLLM's options of one engine.

        Raises:
            InferenceError: The engine could not start.
            ModelError: The tokenizer cannot chat.
            ParameterError: The LoRA adapter is not there.
        """
        from vllm.platforms import current_platform

        self.tokenizer = load_tokenizer(model_dir)
        self.stop_ids = end_of_turn_ids(model_dir, self.tokenizer)
        self.adapter = LoRARequest("adapter", 1, engine.lora_path) if engine.lora_path else None
        options = engine_options(engine, on_cpu=current_platform.is_cpu())
        try:
            self.engine = LLM(
                model=str(model_dir),
                dtype=dtype,
                max_model_len=max_model_len,
                generation_config="vllm",  # no sampling defaults from the checkpoint
                worker_extension_cls=f"{__name__}.{ReseedableWorker.__name__}",
                **options,
            )
        except (RuntimeError, ValueError, OSError, AssertionError, NotImplementedError) as error:
            changed = ", ".join(f"{name} {value}" for name, value in engine.changed().items())
            raise InferenceError(
                f"vLLM could not start with {model_dir}{f' and engine options {changed}' if changed else ''}: {error}. "
                "Free memory, lower max_model_len, or set backend: transformers"
            ) from error

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], sampling: SamplingParameters
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield each prompt's `sampling.n` completions; see `Generator`."""
        self.engine.reset_prefix_cache()
        self.engine.collective_rpc("reseed", args=(sampling.seed,))
        parameters = SamplingParams(**sampling_options(sampling, self.stop_ids))
        copies = sampling.n if sampling.greedy else 1
        engine, first = self.engine.llm_engine, self.engine.request_counter.counter
        prompts = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompt_ids]
        self.engine.enqueue(prompts, parameters, lora_request=self.adapter, use_tqdm=False)
        try:
            while engine.has_unfinished_requests():
                for result in filter(lambda result: result.finished, engine.step()):
                    completions = [self._completion(output, sampling) for output in result.outputs]
                    yield int(result.request_id) - first, completions * copies
        finally:
            engine.abort_request([str(first + i) for i in range(len(prompts))])  # what nobody waits for any more

    def _completion(self, output: CompletionOutput, sampling: SamplingParameters) -> Completion:
        if isinstance(output.stop_reason, str):  # a stop text, which vLLM has cut off the text
            return Completion(output.text, list(output.token_ids), "stop")
        return complete(self.tokenizer, output.token_ids, self.stop_ids, sampling.stop)

    def next_token_logps(
        self, prompt_ids: Sequence[Sequence[int]], token_ids: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return how likely some tokens are behind each prompt; see `Generator`."""
        prompts = [TokensPrompt(prompt_token_ids=list(ids)) for ids in prompt_ids]
        parameters = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(ids), detokenize=False)
            for ids in token_ids
        ]
        results = self.engine.generate(prompts, parameters, lora_request=self.adapter, use_tqdm=False)
        found = []
        for result, ids in zip(results, token_ids, strict=True):
            logprobs = result.outputs[0].logprobs
            assert logprobs is not None
            found.append([logprobs[0][token].logprob for token in ids])
        return found
