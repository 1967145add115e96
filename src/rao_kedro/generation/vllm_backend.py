"""Generates text with vLLM, on GPUs or with its CPU build. Importing this module imports vLLM.

The engine runs in the calling process, which is a worker. If it ran in a second process, the batches, and with them the
sampled text, would depend on timing. If a model is divided over GPUs, the engine starts one process per GPU.
"""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "ERROR",  # else vLLM warns of every weight that it casts
    # Without a value, vLLM would use one thread.
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
}
for _name, _value in _ENVIRONMENT.items():  # vLLM reads these when it is imported
    os.environ.setdefault(_name, _value)

from rao_kedro.config.generation import EngineParameters, SamplingParameters  # noqa: E402
from rao_kedro.errors import GenerationError  # noqa: E402
from rao_kedro.generation.base import ONE_ENGINE, Completion, Dtype, Likelihood, complete  # noqa: E402
from rao_kedro.generation.engine_options import engine_options, sampling_options  # noqa: E402
from rao_kedro.models.chat_format import end_of_turn_ids, load_tokenizer  # noqa: E402

try:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest
    from vllm.outputs import CompletionOutput, RequestOutput
except (ImportError, RuntimeError, OSError) as error:
    raise GenerationError(f"vLLM is installed but cannot be imported ({error}): set backend: transformers") from error


class ReseedableWorker:
    """Extends vLLM's worker, so that the engine's seed can be set again.

    A seed in the request would suffice, but vLLM's CPU build fails on it ("CPU Generator does not use offset").
    """

    def reseed(self, seed: int) -> None:
        """Seed the random generators of sampling."""
        import torch

        torch.manual_seed(seed)


class VllmGenerator:
    """A `Generator` with continuous batching and a paged KV cache."""

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
            engine: Options of this one engine.

        Raises:
            GenerationError: The engine could not start.
            ModelError: The tokenizer cannot chat.
            ParameterError: The LoRA adapter does not exist.
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
            raise GenerationError(
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
                finished = (r for r in engine.step() if isinstance(r, RequestOutput) and r.finished)
                for result in finished:
                    completions = [self._completion(output, sampling) for output in result.outputs]
                    yield int(result.request_id) - first, completions * copies
        finally:
            engine.abort_request([str(first + i) for i in range(len(prompts))])  # if the caller stopped early

    def _completion(self, output: CompletionOutput, sampling: SamplingParameters) -> Completion:
        if isinstance(output.stop_reason, str):  # a stop text, which vLLM has removed from the text
            return Completion(output.text, list(output.token_ids), "stop")
        return complete(self.tokenizer, output.token_ids, self.stop_ids, sampling.stop)

    def continuation_logps(
        self, prompt_ids: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[Likelihood]]:
        """Return the likelihood of each given continuation of each prompt; see `Generator`.

        Single tokens cost one request per prompt; longer continuations cost one request each.

        Raises:
            GenerationError: A continuation has several tokens, and the engine has a LoRA adapter.
        """
        single = all(len(ids) == 1 for asked in continuations for ids in asked)
        if not single and self.engine.llm_engine.vllm_config.lora_config is not None:
            raise GenerationError(  # vLLM's LoRA layers expect one row per request, and get one per token
                "vLLM with a LoRA adapter computes no log-probs of continuations of several tokens: merge the adapter "
                "into the model, or set backend: transformers"
            )
        requests: list[tuple[TokensPrompt, SamplingParams]] = []
        for prompt, asked in zip(prompt_ids, continuations, strict=True):
            if all(len(ids) == 1 for ids in asked):
                requests.append((_tokens(prompt), _one_token(logprob_token_ids=[ids[0] for ids in asked])))
            else:
                requests += [(_tokens([*prompt, *ids]), _one_token(prompt_logprobs=0)) for ids in asked]
        prompts, parameters = zip(*requests, strict=True) if requests else ((), ())
        results = iter(self.engine.generate(list(prompts), list(parameters), lora_request=self.adapter, use_tqdm=False))
        found = []
        for asked in continuations:
            if all(len(ids) == 1 for ids in asked):
                written = next(results).outputs[0]
                assert written.logprobs is not None
                logprobs, greedy = written.logprobs[0], written.token_ids[0]
                found.append([Likelihood(logprobs[token].logprob, token == greedy) for (token,) in asked])
            else:
                found.append([_of_last_tokens(next(results).prompt_logprobs, ids) for ids in asked])
        return found


def _tokens(ids: Sequence[int]) -> TokensPrompt:
    return TokensPrompt(prompt_token_ids=list(ids))


def _one_token(**asked: Any) -> SamplingParams:
    return SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **asked)


def _of_last_tokens(logprobs: Any, ids: Sequence[int]) -> Likelihood:
    """Return the likelihood of the last tokens of a prompt."""
    own = [of_place[token] for of_place, token in zip(logprobs[-len(ids) :], ids, strict=True)]
    return Likelihood(math.fsum(token.logprob for token in own), all(token.rank == 1 for token in own))
