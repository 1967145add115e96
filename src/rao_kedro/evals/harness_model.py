"""A generator of `inference` as a model of lm-evaluation-harness, so that one engine serves every benchmark.

What it wrote is kept shard by shard: a killed run goes on from there. Knows nothing about tasks.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.files import write_text
from rao_kedro.inference.generators import Generator
from rao_kedro.models.chat import load_tokenizer, prompt_token_ids
from rao_kedro.models.identity import combined_hash, content_hash
from rao_kedro.schemas.generation import GenerationParameters, SamplingParameters


class GeneratorLM(TemplateLM):
    """Answers chats greedily, and tells how likely single tokens are behind plain text."""

    def __init__(
        self,
        model_dir: Path,
        generation: GenerationParameters,
        make: Callable[[], Generator],
        shards_dir: Path | None = None,
    ) -> None:
        """Say what answers.

        Args:
            model_dir: A checkpoint with its tokenizer and chat template.
            generation: Precision, length and size of a shard; its sampling is not used, since tasks say their own.
            make: Returns the generator; called only if something is not kept, whenever it is needed.
            shards_dir: Where finished shards are kept; None keeps none.
        """
        super().__init__()
        self.model_dir, self.generation, self.make, self.shards_dir = model_dir, generation, make, shards_dir
        self.tokenizer: Any = load_tokenizer(model_dir)

    @cached_property
    def _identity(self) -> str:
        how = self.generation.model_dump_json(include={"backend", "dtype", "max_model_len"})
        return combined_hash(content_hash(self.model_dir), how)

    @property
    def eot_token_id(self) -> int:
        """Return the end-of-turn token."""
        return int(self.tokenizer.eos_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of plain text, behind a BOS token where the tokenizer puts one."""
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens is not False)["input_ids"])

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return what the model answers to each prompt as a user's message, up to the first of its `until` strings.

        Raises:
            ParameterError: A task does not ask for greedy decoding.
            InferenceError: A prompt is too long.
        """
        chats = [[{"role": "user", "content": request.args[0]}] for request in requests]
        prompts = [prompt_token_ids(self.tokenizer, chat) for chat in chats]
        wanted = [_max_tokens(request.args[1]) for request in requests]
        written: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: wanted[i])
        for max_tokens, of_length in groupby(order, key=lambda i: wanted[i]):
            rows = list(of_length)
            for i in rows:
                self._refuse_too_long(prompts[i], max_tokens, requests[i])
            for start in range(0, len(rows), self.generation.shard_size):
                shard = rows[start : start + self.generation.shard_size]
                found = self._kept("text", max_tokens, [prompts[i] for i in shard], self._texts)
                written |= dict(zip(shard, found, strict=True))
                print(f"{len(written)} of {len(requests)} answers", flush=True)
        return [_cut(written[i], request.args[1].get("until") or []) for i, request in enumerate(requests)]

    def _texts(self, prompts: Sequence[list[int]], max_tokens: int) -> list[str]:
        sampling = SamplingParameters(temperature=0.0, max_tokens=max_tokens)
        return [completion.text for (completion,) in self.make().generate(prompts, sampling)]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return the log-prob of each continuation, and whether none of the others behind the prompt is likelier.

        Raises:
            InferenceError: A continuation is more than one token, or a prompt is too long.
        """
        choices: dict[tuple[int, ...], list[int]] = {}
        for (_, continuation), prompt, tokens in requests:
            if len(tokens) != 1:
                raise InferenceError(
                    f"{continuation!r} is {len(tokens)} tokens of {self.model_dir}; only single tokens are compared"
                )
            choices.setdefault(tuple(prompt), []).append(tokens[0])
        prompts = list(choices)
        found: dict[tuple[int, ...], dict[int, float]] = {}
        for start in range(0, len(prompts), self.generation.shard_size):
            shard = prompts[start : start + self.generation.shard_size]
            for ids in shard:
                self._refuse_too_long(ids, 1, ids)
            asked = [choices[prompt] for prompt in shard]
            logps = self._kept("logps", asked, [list(prompt) for prompt in shard], self._logps)
            found |= {p: dict(zip(a, values, strict=True)) for p, a, values in zip(shard, asked, logps, strict=True)}
            print(f"{len(found)} of {len(prompts)} questions", flush=True)
        return [
            (of_prompt[tokens[0]], of_prompt[tokens[0]] == max(of_prompt.values()))
            for _, prompt, tokens in requests
            for of_prompt in [found[tuple(prompt)]]
        ]

    def _logps(self, prompts: Sequence[list[int]], asked: Sequence[list[int]]) -> list[list[float]]:
        return self.make().next_token_logps(prompts, asked)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Perplexities are no part of this project.

        Raises:
            InferenceError: Always.
        """
        raise InferenceError("this model does not compute perplexities")

    def _refuse_too_long(self, prompt: Sequence[int], max_tokens: int, request: Any) -> None:
        room = self.generation.max_model_len - max_tokens
        if len(prompt) > room:
            raise InferenceError(
                f"a prompt of {getattr(request, 'task_name', 'a task')} has {len(prompt)} tokens, and max_model_len "
                f"{self.generation.max_model_len} leaves {room} beside {max_tokens} to write: raise max_model_len"
            )

    def _kept(self, kind: str, how: Any, prompts: list[list[int]], compute: Callable[..., list[Any]]) -> list[Any]:
        """Return what was computed for a shard, from its file if there is one."""
        if self.shards_dir is None:
            return compute(prompts, how)
        path = self.shards_dir / f"{combined_hash(self._identity, kind, json.dumps([how, prompts]))}.json"
        if path.exists():
            kept: list[Any] = json.loads(path.read_text())
            return kept
        computed = compute(prompts, how)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(computed))
        return computed


def _max_tokens(how: dict[str, Any]) -> int:
    """Return how many tokens a task lets a model write."""
    if how.get("do_sample") or how.get("temperature", 0.0) != 0.0:
        raise ParameterError(f"a task asks for sampling ({how}); this model writes greedily")
    return int(how.get("max_gen_toks", 256))


def _cut(text: str, until: Sequence[str] | str) -> str:
    for end in [until] if isinstance(until, str) else until:
        text = text.split(end)[0] if end else text
    return text
