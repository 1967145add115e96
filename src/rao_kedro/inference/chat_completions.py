"""Answers of a chat model with its token log-probs, from any OpenAI-compatible server; each is paid for once.

Retries with back-off, and the server's own `Retry-After`, are the openai package's business.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.files import write_text
from rao_kedro.models.identity import combined_hash
from rao_kedro.schemas.generation import FinishReason

if TYPE_CHECKING:
    from openai import OpenAI

Message = Mapping[str, str]


class Token(BaseModel):
    """A token of an answer.

    Attributes:
        text: As the server spells it.
        logprobs: Log-probs in nats of the likeliest tokens in its place, by their text; where several tokens have the
            same text, of all of them together.
    """

    text: str
    logprobs: dict[str, float]


class Answer(BaseModel):
    """What a model said.

    Attributes:
        text: All of it.
        tokens: Token by token, where log-probs were asked for.
        finish_reason: "length" where it was cut at the token limit.
        prompt_tokens: Tokens that were read, as the server counts them; 0 where it does not.
        completion_tokens: Tokens that were written.
    """

    text: str
    tokens: list[Token] = []
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class ChatSampling:
    """How an answer is written.

    Attributes:
        max_tokens: Tokens at most.
        temperature: 0 takes the likeliest token.
        top_logprobs: Log-probs of this many alternatives per token; 0 asks for none.
    """

    max_tokens: int
    temperature: float = 0.0
    top_logprobs: int = 0


@dataclass(frozen=True)
class ChatServer:
    """An OpenAI-compatible server, and how patient a client is with it.

    Attributes:
        base_url: Up to and including `/v1`.
        model: The name that the server knows it by.
        api_key_variable: The environment variable that holds the key; a local server needs none.
        timeout: Seconds for one request.
        max_retries: Of a request that found the server busy, broken or away, with growing pauses between.
        concurrency: Requests at a time.
        cache_dir: Where answers are kept; None keeps none.
        serves_content: The model's name says all of what answers, so that answers are kept by it wherever it is served.

    Raises:
        ParameterError: The URL holds credentials, which would end in logs.
    """

    base_url: str
    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    timeout: float = 600.0
    max_retries: int = 5
    concurrency: int = 16
    cache_dir: Path | None = field(default=None, compare=False)
    serves_content: bool = False

    def __post_init__(self) -> None:
        """Refuse credentials in the URL."""
        if urlsplit(self.base_url).username is not None:
            raise ParameterError(
                f"put the key of the server into the environment variable {self.api_key_variable}, not its URL"
            )

    @property
    def identity(self) -> str:
        """Return what its answers depend on besides the requests: where it is, or else the content that it serves."""
        if self.serves_content:
            return self.model
        url = urlsplit(self.base_url)
        return f"{self.model} at {url.scheme.lower()}://{url.netloc.lower()}{url.path.rstrip('/')}"

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        key = os.environ.get(self.api_key_variable, "").strip() or "none"
        if not (key.isascii() and key.isprintable()):  # else the HTTP library's error would quote it
            raise InferenceError(
                f"the key in the environment variable {self.api_key_variable} holds a line break or a character that "
                "is not ASCII: set it again"
            )
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=self.max_retries)

    def answers(self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling) -> list[Answer]:
        """Return the answer to each dialogue, in their order; equal dialogues are asked once.

        Raises:
            InferenceError: The server stays away, refuses, or does not answer as a chat server does.
        """
        requests = self._requests(dialogues, sampling)
        names = [name for name, _ in requests]
        executor = ThreadPoolExecutor(self.concurrency)
        try:
            futures = {name: executor.submit(self._answer, name, request) for name, request in dict(requests).items()}
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            executor.shutdown(cancel_futures=True)  # what is in flight is paid for: it ends, and is kept
        for future in futures.values():
            if not future.cancelled() and (error := future.exception()) is not None:
                if not isinstance(error, InferenceError):
                    raise error
                raise InferenceError(f"{error} ({self._how_many_are_kept(names)})") from error
        return [futures[name].result() for name in names]

    def unanswered(self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling) -> int:
        """Return how many different dialogues the server would be asked, since their answers are not kept."""
        return sum(self._kept(name) is None for name in dict(self._requests(dialogues, sampling)))

    def _requests(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return each dialogue's request, behind the name that its answer is kept by."""
        shared = {"model": self.model, **vars(sampling)}
        requests = [{**shared, "messages": [dict(message) for message in dialogue]} for dialogue in dialogues]
        kept_by = {"model": self.identity}
        return [(combined_hash(json.dumps(request | kept_by, sort_keys=True)), request) for request in requests]

    def _path(self, name: str) -> Path | None:
        return self.cache_dir / name[:2] / f"{name}.json" if self.cache_dir else None

    def _kept(self, name: str) -> Answer | None:
        if (path := self._path(name)) is None:
            return None
        try:
            return Answer.model_validate_json(path.read_text())
        except (FileNotFoundError, ValueError):  # not there, or not what was written
            return None

    def _how_many_are_kept(self, names: Sequence[str]) -> str:
        kept = sum(self._kept(name) is not None for name in names)
        return (
            f"{kept} of {len(names)} answers are kept, run again to go on from there" if kept else "no answer is kept"
        )

    def _answer(self, name: str, request: dict[str, Any]) -> Answer:
        if (kept := self._kept(name)) is not None:
            return kept
        answer = self._asked(request)
        if (path := self._path(name)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, answer.model_dump_json())
        return answer

    def _asked(self, request: dict[str, Any]) -> Answer:
        import openai

        top = request.pop("top_logprobs")
        logprobs = {"logprobs": True, "top_logprobs": top} if top else {}
        try:
            reply = self._client.chat.completions.with_raw_response.create(**request, **logprobs)
        except openai.AuthenticationError as error:
            raise InferenceError(
                f"{self.base_url} refuses the key of the environment variable {self.api_key_variable}"
            ) from error
        except openai.APITimeoutError as error:
            raise InferenceError(f"{self.base_url} did not answer within {self.timeout:g} s: raise timeout") from error
        except openai.OpenAIError as error:
            raise InferenceError(f"{self.base_url} cannot be asked: {_reason(error)}") from error
        return _parsed(reply.text, bool(top), self.base_url)


def _reason(error: Exception) -> str:
    """Return what went wrong, and what was behind it."""
    return " ".join(str(part)[:300] for part in (error, error.__cause__) if part is not None)


def _parsed(reply: str, with_logprobs: bool, base_url: str) -> Answer:
    try:
        body = json.loads(reply)
        choice = body["choices"][0]
        text, content = choice["message"]["content"] or "", (choice.get("logprobs") or {}).get("content") or []
        tokens = [Token(text=token["token"], logprobs=_by_text(token["top_logprobs"])) for token in content]
        usage = body.get("usage") or {}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InferenceError(f"{base_url} does not answer as a chat server does: {reply[:200]!r}") from error
    if with_logprobs and text and not tokens:
        raise InferenceError(f"{base_url} gives no log-probs: set read: text, or choose a server that does")
    counts = {name: usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
    finish_reason: FinishReason = "length" if choice.get("finish_reason") == "length" else "stop"
    return Answer(text=text, tokens=tokens, finish_reason=finish_reason, **counts)


def _by_text(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probs by text; SentencePiece has a `7` that starts a word and one that does not, spelled alike."""
    merged: dict[str, float] = {}
    for token in alternatives:
        merged[token["token"]] = float(np.logaddexp(merged.get(token["token"], -np.inf), token["logprob"]))
    return merged
