"""Adapts generators of `generation` and chat servers to lm-evaluation-harness. Knows nothing about tasks.

One engine thus serves every benchmark. Results are cached, so that a killed run resumes.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from rao_kedro.config.generation import GenerationParameters, SamplingParameters
from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.evals.responses import Response, why_no_response
from rao_kedro.generation.base import Call, Generator, Likelihood, stream_shards
from rao_kedro.generation.engine_options import identity_with
from rao_kedro.identity import combined_hash, content_hash
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.thinking import add_opening_tag
from rao_kedro.progress import report_progress
from rao_kedro.shards import JSON, Shards

logger = logging.getLogger(__name__)

MAX_GEN_TOKS = 256  # token limit of a response if the task sets none: the harness's default


class Written(str):
    """The part of a response that a task reads: after the thinking, up to the first of its `until` strings.

    Attributes:
        response: The whole response and its finish reason, which is "stop" if an `until` string ended the part.
    """

    response: Response

    @classmethod
    def read(cls, response: Response, until: Sequence[str]) -> Self:
        """Return the part that a task reads; it is empty if the thinking was cut."""
        read = postprocess_generated_text(response.answer, list(until), None)
        written = cls(read)
        written.response = response if read == response.answer else response._replace(finish_reason="stop")
        return written


class GeneratorLM(TemplateLM):
    """Answers chats greedily, and returns log-probs of continuations of plain text.

    Each prompt is a user's message. This project's tasks use this class.
    """

    def __init__(
        self,
        model_dir: Path,
        generation: GenerationParameters,
        make: Callable[[], Generator],
        shards_dir: Path | None = None,
    ) -> None:
        """Set the model and its generator.

        Args:
            model_dir: A checkpoint with its tokenizer and chat template.
            generation: Precision, length, size of a shard and variables of the chat template; its sampling is not
                used, since tasks set their own.
            make: Returns the generator; called for results that are not cached.
            shards_dir: Directory of the cached shards; None caches none.
        """
        super().__init__()
        self.model_dir, self.generation, self.make = model_dir, generation, make
        self.shards: Shards[Any] = Shards(shards_dir, JSON)
        self.chat = load_chat_format(model_dir, generation.chat_template_kwargs)
        self.tokenizer: Any = self.chat.tokenizer

    @cached_property
    def _identity(self) -> str:
        how = self.generation.model_dump_json(include={"backend", "dtype", "max_model_len"})
        if self.generation.chat_template_kwargs:
            how += json.dumps(self.generation.chat_template_kwargs, sort_keys=True)
        model = identity_with(content_hash(self.model_dir), self.generation.engine)
        return combined_hash(model, how, version("rao_kedro"))

    @property
    def eot_token_id(self) -> int:
        """Return the end-of-turn token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """Return the token before a text without a prompt: BOS, or the end-of-turn token."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of a text. BOS comes first if the tokenizer adds it and the text does not contain it."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the part of the response to each prompt that its task reads, as `Written`.

        Raises:
            ParameterError: A task requests sampling.
            GenerationError: A prompt is too long.
        """
        wanted = [_read_gen_kwargs(request.args[1]) for request in requests]
        prompts = [
            self._fitted(self._prompt_ids(request.args[0]), max_tokens, request.task_name)
            for request, (max_tokens, _) in zip(requests, wanted, strict=True)
        ]
        responses: dict[int, Response] = {}
        report_progress("answering downstream tasks", 0, len(requests), "responses")
        order = sorted(range(len(requests)), key=lambda i: wanted[i][0])
        for max_tokens, of_length in groupby(order, key=lambda i: wanted[i][0]):
            rows, size = list(of_length), self.generation.shard_size
            shards = [rows[start : start + size] for start in range(0, len(rows), size)]
            for shard, written in self._responses(max_tokens, [[prompts[i] for i in shard] for shard in shards]):
                responses |= dict(zip(shards[shard], written, strict=True))
                report_progress("answering downstream tasks", len(responses), len(requests), "responses")
        return [Written.read(responses[i], until) for i, (_, until) in enumerate(wanted)]

    def _prompt_ids(self, prompt: str) -> list[int]:
        return prompt_token_ids(self.chat, [{"role": "user", "content": prompt}])

    def _responses(self, max_tokens: int, shards: Sequence[list[list[int]]]) -> Iterator[tuple[int, list[Response]]]:
        """Yield the responses to each shard's prompts, cached ones first."""

        def generate(missing: list[int]) -> Iterator[tuple[int, list[Response]]]:
            sampling = SamplingParameters(temperature=0.0, max_tokens=max_tokens)
            for shard, completions in stream_shards(self.make(), [Call({i: shards[i] for i in missing}, sampling)]):
                yield (
                    shard,
                    [
                        Response(add_opening_tag(self.tokenizer, prompt, written.text), written.finish_reason)
                        for prompt, (written,) in zip(shards[shard], completions, strict=True)
                    ],
                )

        keys = [self._key("responses", max_tokens, prompts) for prompts in shards]
        for shard, responses in self.shards.read_or_make(keys, generate):
            yield shard, [Response(*response) for response in responses]

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return the log-prob of each continuation, and whether greedy decoding writes it.

        Raises:
            GenerationError: A prompt is too long.
        """
        # An engine writes one token after the tokens that it reads.
        rows = [
            (tuple(self._fitted(prompt, len(continuation) + 1)), tuple(continuation))
            for _, prompt, continuation in requests
        ]
        asked: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for prompt, continuation in rows:
            asked.setdefault(prompt, {})[continuation] = None
        prompts, found = list(asked), dict[tuple[tuple[int, ...], tuple[int, ...]], Likelihood]()
        report_progress("answering multiple choice", 0, len(prompts), "questions")
        for start in range(0, len(prompts), self.generation.shard_size):
            shard = prompts[start : start + self.generation.shard_size]
            likelihoods = self._likelihoods([*map(list, shard)], [[*map(list, asked[prompt])] for prompt in shard])
            for prompt, of_prompt in zip(shard, likelihoods, strict=True):
                found |= {(prompt, ids): of for ids, of in zip(asked[prompt], of_prompt, strict=True)}
            report_progress("answering multiple choice", start + len(shard), len(prompts), "questions")
        return [found[row] for row in rows]

    def _likelihoods(self, prompts: list[list[int]], asked: list[list[list[int]]]) -> list[list[Likelihood]]:
        key = self._key("likelihoods", asked, prompts)
        kept = self.shards.read_or_make([key], lambda _: [(0, self.make().continuation_logps(prompts, asked))])
        return [[Likelihood(*of) for of in of_prompt] for _, shard in kept for of_prompt in shard]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-prob of each text, in windows of the model's length, as the harness's own models do."""
        windows = [
            (i, window)
            for i, request in enumerate(requests)
            for window in get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.generation.max_model_len - 2, 1
            )
        ]
        logps = self._loglikelihood_tokens([(("", ""), *make_disjoint_window(window)) for _, window in windows])
        totals = [0.0] * len(requests)
        for (i, _), (logp, _) in zip(windows, logps, strict=True):
            totals[i] += logp
        return totals

    def _fitted(self, prompt: list[int], max_tokens: int, task: str | None = None) -> list[int]:
        """Return a prompt that leaves room for some tokens."""
        room = self.generation.max_model_len - max_tokens
        if len(prompt) > room:
            raise GenerationError(
                f"a prompt of {task or 'a task'} has {len(prompt)} tokens, and max_model_len "
                f"{self.generation.max_model_len} leaves {room} beside {max_tokens} to write: raise max_model_len"
            )
        return prompt

    def _key(self, kind: str, asked: Any, prompts: list[list[int]]) -> str:
        """Return the key of a shard: a hash of the model, the request and the prompts."""
        return combined_hash(self._identity, kind, json.dumps([asked, prompts]))


class TextLM(GeneratorLM):
    """Continues prompts as they are; the harness applies the chat template if the parameters say so.

    The harness's own tasks use this class. A prompt that is too long loses its beginning, as with the harness's own
    models.
    """

    _said_that_prompts_are_cut = False

    @property
    def tokenizer_name(self) -> str:
        """Return the tokenizer's name in the harness."""
        return str(self.model_dir).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as text, without its system message if the template refuses one.

        Args:
            chat_history: The messages.
            add_generation_prompt: False if the last message is the beginning of the response.
        """
        how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        how |= self.chat.template_kwargs
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, **how))
        except TemplateError:
            without = [message for message in chat_history if message["role"] != "system"]
            return str(self.tokenizer.apply_chat_template(without, tokenize=False, **how))

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self.tok_encode(prompt)

    def _fitted(self, prompt: list[int], max_tokens: int, task: str | None = None) -> list[int]:
        if (room := self.generation.max_model_len - max_tokens) < 1:
            raise GenerationError(
                f"{task or 'a task'} needs {max_tokens} tokens after a prompt, and max_model_len is "
                f"{self.generation.max_model_len}: raise max_model_len"
            )
        if len(prompt) > room and not self._said_that_prompts_are_cut:
            self._said_that_prompts_are_cut = True
            logger.warning("prompts lose their beginning to fit max_model_len %d", self.generation.max_model_len)
        return prompt[-room:]


class _Chat(str):
    """A chat as text, with the messages to send to a chat server."""

    messages: list[dict[str, str]]


class ServedLM(LM):
    """Answers chats greedily through an OpenAI-compatible server, which returns no log-probs of given text."""

    def __init__(self, server: ChatServer) -> None:
        """Set the server, which caches its answers."""
        super().__init__()
        self.server = server

    @property
    def tokenizer_name(self) -> str:
        """Return the tokenizer's name in the harness."""
        return self.server.model

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat with its messages; the server applies its own template."""
        chat = _Chat(json.dumps(chat_history))
        chat.messages = chat_history
        return chat

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the part of the response to each chat, or user's message, that its task reads, as `Written`.

        Raises:
            ParameterError: A task requests sampling.
            GenerationError: The server cannot be reached; its answers so far are cached.
        """
        responses: dict[int, Response] = {}
        wanted = [_read_gen_kwargs(request.args[1]) for request in requests]
        for max_tokens in sorted({of[0] for of in wanted}):
            rows = [i for i, of in enumerate(wanted) if of[0] == max_tokens]
            prompts = [requests[i].args[0] for i in rows]
            chats = [p.messages if isinstance(p, _Chat) else [{"role": "user", "content": p}] for p in prompts]
            answers = self.server.answers(chats, ChatSampling(max_tokens), why_no_response)
            responses |= {i: Response.of(answer) for i, answer in zip(rows, answers, strict=True)}
        return [Written.read(responses[i], until) for i, (_, until) in enumerate(wanted)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse the requests: chat servers return no log-probs of given text.

        Raises:
            GenerationError: Always.
        """
        raise GenerationError(f"{self.server.base_url} returns no log-probs of given text")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse the requests: chat servers return no log-probs of given text.

        Raises:
            GenerationError: Always.
        """
        raise GenerationError(f"{self.server.base_url} returns no log-probs of given text")


def _read_gen_kwargs(how: dict[str, Any]) -> tuple[int, list[str]]:
    """Return a task's token limit, and the strings that end a response."""
    asked = normalize_gen_kwargs(how, MAX_GEN_TOKS)
    if asked["do_sample"] and asked.get("temperature") != 0.0:
        raise ParameterError(f"a task requests sampling ({how}), but this model decodes greedily")
    return asked["max_gen_toks"], [end for end in asked["until"] if end]
