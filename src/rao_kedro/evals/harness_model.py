"""A generator of `inference`, and a chat server, as models of lm-evaluation-harness. Know nothing about tasks.

So one engine serves every benchmark. What was written is kept: a killed run goes on from there.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.evals.responses import no_response
from rao_kedro.files import write_text
from rao_kedro.inference.chat_completions import ChatSampling, ChatServer
from rao_kedro.inference.generators import Generator, finished_shards
from rao_kedro.models.chat import load_chat_format, prompt_token_ids
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
        self.chat = load_chat_format(model_dir)
        self.tokenizer: Any = self.chat.tokenizer

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
        prompts = [prompt_token_ids(self.chat, chat) for chat in chats]
        wanted = [_max_tokens(request.args[1]) for request in requests]
        written: dict[int, str] = {}
        order = sorted(range(len(requests)), key=lambda i: wanted[i])
        for max_tokens, of_length in groupby(order, key=lambda i: wanted[i]):
            rows = list(of_length)
            for i in rows:
                self._refuse_too_long(prompts[i], max_tokens, requests[i])
            size = self.generation.shard_size
            shards = [rows[start : start + size] for start in range(0, len(rows), size)]
            for shard, texts in self._texts(max_tokens, [[prompts[i] for i in shard] for shard in shards]):
                written |= dict(zip(shards[shard], texts, strict=True))
                print(f"{len(written)} of {len(requests)} answers", flush=True)
        return [_cut(written[i], request.args[1].get("until") or []) for i, request in enumerate(requests)]

    def _texts(self, max_tokens: int, shards: Sequence[list[list[int]]]) -> Iterator[tuple[int, list[str]]]:
        """Yield the answers to each shard's prompts, those that are kept first."""
        paths = [self._path("text", max_tokens, prompts) for prompts in shards]
        missing = {}
        for shard, path in enumerate(paths):
            if path is not None and path.exists():
                yield shard, json.loads(path.read_text())
            else:
                missing[shard] = shards[shard]
        if missing:
            sampling = SamplingParameters(temperature=0.0, max_tokens=max_tokens)
            for shard, completions in finished_shards(self.make(), missing, sampling):
                texts = [completion.text for (completion,) in completions]
                _keep(paths[shard], texts)
                yield shard, texts

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
            logps = self._logps([list(prompt) for prompt in shard], asked)
            found |= {p: dict(zip(a, values, strict=True)) for p, a, values in zip(shard, asked, logps, strict=True)}
            print(f"{len(found)} of {len(prompts)} questions", flush=True)
        return [
            (of_prompt[tokens[0]], of_prompt[tokens[0]] == max(of_prompt.values()))
            for _, prompt, tokens in requests
            for of_prompt in [found[tuple(prompt)]]
        ]

    def _logps(self, prompts: list[list[int]], asked: list[list[int]]) -> list[list[float]]:
        path = self._path("logps", asked, prompts)
        if path is not None and path.exists():
            kept: list[list[float]] = json.loads(path.read_text())
            return kept
        logps = self.make().next_token_logps(prompts, asked)
        _keep(path, logps)
        return logps

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

    def _path(self, kind: str, how: Any, prompts: list[list[int]]) -> Path | None:
        """Return where a shard is kept, if any is."""
        if self.shards_dir is None:
            return None
        return self.shards_dir / f"{combined_hash(self._identity, kind, json.dumps([how, prompts]))}.json"


class ServedLM(LM):
    """Answers chats greedily through an OpenAI-compatible server, which gives no log-probs of what it did not write.

    Attributes:
        unanswered: Why the server gave no response, by prompt; tasks read an empty one.
    """

    def __init__(self, server: ChatServer) -> None:
        """Say which server answers, and where its answers are kept."""
        super().__init__()
        self.server = server
        self.unanswered: dict[str, str] = {}

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return what the model answers to each prompt as a user's message, up to the first of its `until` strings.

        Raises:
            ParameterError: A task does not ask for greedy decoding.
            InferenceError: The server stays away; what it answered is kept.
        """
        written: dict[int, str] = {}
        wanted = [_max_tokens(request.args[1]) for request in requests]
        for max_tokens in sorted(set(wanted)):
            rows = [i for i, tokens in enumerate(wanted) if tokens == max_tokens]
            chats = [[{"role": "user", "content": requests[i].args[0]}] for i in rows]
            print(f"asking {self.server.model} for {len(rows)} answers of downstream tasks", flush=True)
            answers = self.server.answers(chats, ChatSampling(max_tokens), no_response)
            written |= {i: answer.text for i, answer in zip(rows, answers, strict=True)}
            reasons = {requests[i].args[0]: no_response(answer) for i, answer in zip(rows, answers, strict=True)}
            self.unanswered |= {prompt: reason for prompt, reason in reasons.items() if reason}
        return [_cut(written[i], request.args[1].get("until") or []) for i, request in enumerate(requests)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Chat servers do not do this.

        Raises:
            InferenceError: Always.
        """
        raise InferenceError(f"{self.server.base_url} gives no log-probs of text that it did not write")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Chat servers do not do this.

        Raises:
            InferenceError: Always.
        """
        raise InferenceError(f"{self.server.base_url} gives no log-probs of text that it did not write")


def _keep(path: Path | None, computed: Any) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(computed))


def _max_tokens(how: dict[str, Any]) -> int:
    """Return how many tokens a task lets a model write."""
    if how.get("do_sample") or how.get("temperature", 0.0) != 0.0:
        raise ParameterError(f"a task asks for sampling ({how}); this model writes greedily")
    return int(how.get("max_gen_toks", 256))


def _cut(text: str, until: Sequence[str] | str) -> str:
    for end in [until] if isinstance(until, str) else until:
        text = text.split(end)[0] if end else text
    return text
