"""A generator of `generation`, and a chat server, as models of lm-evaluation-harness. Know nothing about tasks.

So one engine serves every benchmark. What was written is kept: a killed run goes on from there.
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
from rao_kedro.evals.responses import Response, no_response
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

MAX_GEN_TOKS = 256  # of a response, where a task does not say it: the harness's default


class Written(str):
    """What a task reads of a response: behind the thinking, up to the first of its `until` strings.

    Attributes:
        response: All of it, and whether it was cut at its token limit; where an `until` string ended it, it was not.
    """

    response: Response

    @classmethod
    def read(cls, response: Response, until: Sequence[str]) -> Self:
        """Return what a task reads; nothing of a thought that was cut."""
        read = postprocess_generated_text(response.answer, list(until), None)
        written = cls(read)
        written.response = response if read == response.answer else response._replace(finish_reason="stop")
        return written


class GeneratorLM(TemplateLM):
    """Answers chats greedily, and tells how likely continuations of plain text are.

    Each prompt is a user's message. This project's tasks are run so.
    """

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
            generation: Precision, length, size of a shard and variables of the chat template; its sampling is not
                used, since tasks say their own.
            make: Returns the generator; called only if something is not kept, whenever it is needed.
            shards_dir: Where finished shards are kept; None keeps none.
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
        """Return what stands before a text without a prompt: BOS, or the end-of-turn token."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the token ids of text, behind a BOS token where the tokenizer puts one and the text has none yet."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what tasks read of the response to each prompt, as `Written`.

        Raises:
            ParameterError: A task does not ask for greedy decoding.
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
        """Yield the responses to each shard's prompts, those that are kept first."""

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
        # An engine writes a token behind what it reads.
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
        """Return the key of a shard: a hash of the model, what is asked for, and the prompts."""
        return combined_hash(self._identity, kind, json.dumps([asked, prompts]))


class TextLM(GeneratorLM):
    """Continues prompts as they are; the harness puts them into the chat template where it is asked to.

    The harness's own tasks are run so, and a prompt that is too long loses its beginning, as with the harness's own
    models.
    """

    _said_that_prompts_are_cut = False

    @property
    def tokenizer_name(self) -> str:
        """Return what the harness calls the tokenizer."""
        return str(self.model_dir).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as text, without its system message where the template refuses one.

        Args:
            chat_history: The messages.
            add_generation_prompt: False where the last message is the beginning of the response.
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
                f"{task or 'a task'} wants {max_tokens} tokens behind a prompt, and max_model_len is "
                f"{self.generation.max_model_len}: raise max_model_len"
            )
        if len(prompt) > room and not self._said_that_prompts_are_cut:
            self._said_that_prompts_are_cut = True
            logger.warning("prompts lose their beginning to fit max_model_len %d", self.generation.max_model_len)
        return prompt[-room:]


class _Chat(str):
    """A chat as text, and its messages, which a chat server is sent."""

    messages: list[dict[str, str]]


class ServedLM(LM):
    """Answers chats greedily through an OpenAI-compatible server, which gives no log-probs of what it did not write."""

    def __init__(self, server: ChatServer) -> None:
        """Say which server answers, and where its answers are kept."""
        super().__init__()
        self.server = server

    @property
    def tokenizer_name(self) -> str:
        """Return what the harness calls the tokenizer."""
        return self.server.model

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as it is sent: the template is the server's business."""
        chat = _Chat(json.dumps(chat_history))
        chat.messages = chat_history
        return chat

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return what tasks read of the response to each chat, or user's message, as `Written`.

        Raises:
            ParameterError: A task does not ask for greedy decoding.
            GenerationError: The server stays away; what it answered is kept.
        """
        responses: dict[int, Response] = {}
        wanted = [_read_gen_kwargs(request.args[1]) for request in requests]
        for max_tokens in sorted({of[0] for of in wanted}):
            rows = [i for i, of in enumerate(wanted) if of[0] == max_tokens]
            prompts = [requests[i].args[0] for i in rows]
            chats = [p.messages if isinstance(p, _Chat) else [{"role": "user", "content": p}] for p in prompts]
            answers = self.server.answers(chats, ChatSampling(max_tokens), no_response)
            responses |= {i: Response.of(answer) for i, answer in zip(rows, answers, strict=True)}
        return [Written.read(responses[i], until) for i, (_, until) in enumerate(wanted)]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Chat servers do not do this.

        Raises:
            GenerationError: Always.
        """
        raise GenerationError(f"{self.server.base_url} gives no log-probs of text that it did not write")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Chat servers do not do this.

        Raises:
            GenerationError: Always.
        """
        raise GenerationError(f"{self.server.base_url} gives no log-probs of text that it did not write")


def _read_gen_kwargs(how: dict[str, Any]) -> tuple[int, list[str]]:
    """Return how many tokens a task lets a model write, and the strings that end a response."""
    asked = normalize_gen_kwargs(how, MAX_GEN_TOKS)
    if asked["do_sample"] and asked.get("temperature") != 0.0:
        raise ParameterError(f"a task asks for sampling ({how}); this model writes greedily")
    return asked["max_gen_toks"], [end for end in asked["until"] if end]
