"""Answers of a chat model with its token log-probs, from any OpenAI-compatible server; each is paid for once.

A request that is refused, or whose answer cannot be used, costs its item only, and is sent again in the next runs.
Retries with back-off, and the server's own `Retry-After`, are the openai package's business; `server_errors` tells
refusals of one request from what ends a run.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel

from rao_kedro.config.servers import PROTOCOL, AskedParameters, RequestParameters, checked_url
from rao_kedro.errors import InferenceError
from rao_kedro.files import write_text
from rao_kedro.identity import combined_hash
from rao_kedro.judges.metering import Meter, estimated_tokens
from rao_kedro.judges.server_errors import ending_error, refusal_of
from rao_kedro.models.thinking import CLOSE, OPEN, split_thinking
from rao_kedro.progress import progress_of

if TYPE_CHECKING:
    from openai import OpenAI

Message = Mapping[str, str]
IN_A_ROW = 10  # unusable answers at the start, and none that is usable: the server or how it is asked is wrong


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
        text: All of it, but for what it thought.
        tokens: Token by token, where log-probs were asked for; those of a thought may be among them.
        prompt_tokens: Tokens that were read, as the server counts them; estimated from the text where it does not.
        completion_tokens: Tokens that were written, those of a thought included.
        finish_reason: `stop`, `length`, `content_filter` or another word of the server; empty where it has none.
        thinking: What was thought before.
        thinking_was_cut: The answer ended before the thought did.
        refusal: Why the server refused the request, or the model declined to answer.
    """

    text: str
    tokens: list[Token] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    thinking: str = ""
    thinking_was_cut: bool = False
    refusal: str = ""

    @property
    def whole(self) -> str:
        """Thinking and answer in one text, as models write them that think."""
        if not self.thinking:
            return self.text
        return f"{OPEN}{self.thinking}" + ("" if self.thinking_was_cut else f"{CLOSE}\n\n{self.text}")

    def failure(self, complete: bool = True) -> str:
        """Return why there is no answer; nothing where there is one.

        Args:
            complete: An answer that was cut at its token limit is none.
        """
        if self.refusal:
            return self.refusal
        if self.finish_reason == "content_filter":
            return "the answer was filtered"
        if self.thinking_was_cut:
            return "the thinking was cut at the token limit (max_tokens)"
        if not self.text.strip():
            return "the answer is empty"
        return (
            "the answer was cut at the token limit (max_tokens)" if complete and self.finish_reason == "length" else ""
        )


Unusable = Callable[[Answer], str]  # returns why an answer cannot be used; nothing where it can


class Reply(BaseModel):
    """What is kept of a request: the last answer as the server sent it, and what all attempts took.

    Attributes:
        text: With what was thought, where the server leaves that in it.
        tokens: As in `Answer`, like the four that follow.
        prompt_tokens: Of the last attempt.
        completion_tokens: Of the last attempt.
        finish_reason: The server's word.
        refusal: Why there is no text.
        reasoning: What was thought, where the server tells it apart.
        attempts: How often the request was sent.
        earlier_prompt_tokens: What the attempts before the last one read.
        earlier_completion_tokens: What they wrote.
    """

    text: str = ""
    tokens: list[Token] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    reasoning: str = ""
    refusal: str = ""
    attempts: int = 1
    earlier_prompt_tokens: int = 0
    earlier_completion_tokens: int = 0

    @property
    def answer(self) -> Answer:
        """What is told apart in it: the thought, and the answer."""
        thinking, answer = split_thinking(self.text)
        thought_only = bool(self.reasoning) and not (answer or "").strip() and self.finish_reason == "length"
        return Answer(
            text=answer or "",
            tokens=self.tokens,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason=self.finish_reason,
            thinking=self.reasoning or thinking,
            thinking_was_cut=answer is None or thought_only,
            refusal=self.refusal,
        )

    def after(self, before: "Reply | None") -> "Reply":
        """Return this reply with what earlier attempts took."""
        if before is None:
            return self
        return self.model_copy(
            update={
                "attempts": before.attempts + 1,
                "earlier_prompt_tokens": before.earlier_prompt_tokens + before.prompt_tokens,
                "earlier_completion_tokens": before.earlier_completion_tokens + before.completion_tokens,
            }
        )


@dataclass(frozen=True)
class ChatSampling:
    """How an answer is written.

    Attributes:
        max_tokens: Tokens at most; None leaves it to the server.
        temperature: 0 takes the likeliest token; None leaves it to the server.
        top_logprobs: Log-probs of this many alternatives per token; 0 asks for none.
    """

    max_tokens: int | None
    temperature: float | None = 0.0
    top_logprobs: int = 0

    def fields(self, options: RequestParameters) -> dict[str, Any]:
        """Return what is asked for besides the dialogue, by which answers are kept; options take the place of these."""
        asked = {
            "max_tokens": self.max_tokens if options.max_tokens == PROTOCOL else options.max_tokens,
            "temperature": self.temperature if options.temperature == PROTOCOL else options.temperature,
            "top_logprobs": self.top_logprobs,
        }
        other_name = options.max_tokens_field != "max_tokens"
        named = {"max_tokens_field": options.max_tokens_field} if other_name else {}
        return asked | named | options.further_fields


@dataclass(frozen=True)
class ChatServer:
    """An OpenAI-compatible server, and how patient a client is with it.

    Attributes:
        base_url: Up to and including `/v1`; empty for a server that is not started yet.
        model: The name that the server knows it by.
        api_key_variable: The environment variable that holds the key; a local server needs none.
        timeout: Seconds for one request.
        max_retries: Retries of a request that found the server busy, broken or away, with exponential back-off.
        concurrency: Requests at a time.
        max_attempts: Runs in which a request is sent whose answer cannot be used; then it is not sent again.
        options: Fields of a request that take the place of the protocol's.
        cache_dir: Where answers are kept; None keeps none.
        serves_content: The model's name says all of what answers, so that answers are kept by it wherever it is served.
        meter: Counts what is asked, and ends what costs too much.
        sent: Names of the requests of this run, each of which is one attempt, whoever asks the same.

    Raises:
        ParameterError: The URL holds credentials, which would end in logs.
    """

    base_url: str
    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    timeout: float = 600.0
    max_retries: int = 5
    concurrency: int = 16
    max_attempts: int = 3
    options: RequestParameters = field(default_factory=RequestParameters)
    cache_dir: Path | None = field(default=None, compare=False)
    serves_content: bool = False
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    sent: set[str] = field(default_factory=set, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse credentials in the URL."""
        if self.base_url:
            checked_url(self.base_url)

    @classmethod
    def of(cls, asked: AskedParameters, base_url: str, **more: Any) -> "ChatServer":
        """Return the server that parameters describe."""
        names = ("model", "api_key_variable", "timeout", "max_retries", "concurrency", "max_attempts")
        return cls(base_url=base_url, options=asked, **asked.model_dump(include={*names}), **more)

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

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Return the answer to each dialogue, in their order; equal dialogues are asked once.

        Args:
            dialogues: What is asked.
            sampling: How answers are written, where `options` do not say it.
            unusable: Says of an answer why it cannot be used. It is returned like the others, and asked for again in
                the next run, with a server object of its own, `max_attempts` times in all.

        Raises:
            InferenceError: The server stays away or does not let us in, what it is asked for is wrong, its answers cost
                more than they may, or none of the first `IN_A_ROW` can be used. What it answered is kept.
        """
        requests = self._requests(dialogues, sampling)
        batch = _Batch(self, dict(requests), unusable)
        executor = ThreadPoolExecutor(self.concurrency)
        try:
            futures = {name: executor.submit(batch.ask, name) for name in batch.to_ask}
            one_more = progress_of(f"asking {self.model}", len(futures), "requests")
            for future in futures.values():
                future.add_done_callback(one_more)
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            batch.ended = True
            executor.shutdown(cancel_futures=True)  # what is in flight is paid for: it ends, and is kept
            batch.keep_refusals()
        for future in futures.values():
            if not future.cancelled() and (error := future.exception()) is not None:
                if not isinstance(error, InferenceError):
                    raise error
                raise InferenceError(f"{error} ({self._how_many_are_kept(batch)})") from error
        return [batch.replies[name].answer for name, _ in requests]

    def to_ask(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> dict[str, dict[str, Any]]:
        """Return the different requests that `answers` would send, since no usable answer is kept, by their names."""
        requests = dict(self._requests(dialogues, sampling))
        return {name: of for name, of in requests.items() if not self.stays(name, self.kept(name), unusable)}

    def stays(self, name: str, reply: Reply | None, unusable: Unusable) -> bool:
        """Return whether a kept reply is not asked for again in this run."""
        return reply is not None and (name in self.sent or self.settled(reply, unusable))

    def settled(self, reply: Reply | None, unusable: Unusable) -> bool:
        """Return whether a kept reply is never asked for again: it is of use, or has been tried often enough."""
        return reply is not None and (reply.attempts >= self.max_attempts or not unusable(reply.answer))

    def _requests(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return each dialogue's request, behind the name that its answer is kept by."""
        shared = {"model": self.model, **sampling.fields(self.options)}
        requests = [{**shared, "messages": [dict(message) for message in dialogue]} for dialogue in dialogues]
        kept_by = {"model": self.identity}
        return [(combined_hash(json.dumps(request | kept_by, sort_keys=True)), request) for request in requests]

    def _path(self, name: str) -> Path | None:
        return self.cache_dir / name[:2] / f"{name}.json" if self.cache_dir else None

    def kept(self, name: str) -> Reply | None:
        """Return the reply that is kept under a name."""
        if (path := self._path(name)) is None:
            return None
        try:
            return Reply.model_validate_json(path.read_text())
        except (FileNotFoundError, ValueError):  # not there, or not what was written
            return None

    def keep(self, name: str, reply: Reply) -> None:
        """Keep a reply, where replies are kept."""
        if (path := self._path(name)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, reply.model_dump_json(exclude_defaults=True))

    def _how_many_are_kept(self, batch: "_Batch") -> str:
        kept = sum(self.settled(self.kept(name), batch.unusable) for name in batch.requests)
        how_many = f"{kept} of {len(batch.requests)} answers are kept, run again to go on from there"
        return how_many if kept else "no answer is kept"

    def send(self, request: Mapping[str, Any]) -> Reply:
        """Return what the server replies.

        Raises:
            InferenceError: It is no refusal of this request alone; see `server_errors`.
        """
        import openai

        fields = {name: value for name, value in request.items() if value is not None}
        top = fields.pop("top_logprobs")
        if top:
            fields |= {"logprobs": True, "top_logprobs": top}
        if "max_tokens" in fields and (other_name := fields.pop("max_tokens_field", None)):
            fields[other_name] = fields.pop("max_tokens")
        asked = {name: fields.pop(name) for name in ("model", "messages")}
        try:
            sent = self._client.chat.completions.with_raw_response.create(**asked, extra_body=fields)
        except openai.AuthenticationError as error:
            raise InferenceError(
                f"{self.base_url} refuses the key of the environment variable {self.api_key_variable}"
            ) from error
        except openai.APITimeoutError as error:
            raise InferenceError(f"{self.base_url} did not answer within {self.timeout:g} s: raise timeout") from error
        except openai.OpenAIError as error:
            if (why := ending_error(error, self.meter.works)) is not None:
                raise InferenceError(f"{self.base_url} cannot be asked: {why}") from error
            assert isinstance(error, openai.APIStatusError)
            return Reply(refusal=refusal_of(error), **_usage(error.body))
        try:
            reply = _parsed(sent.text, request)
        except _ForeignReplyError as error:
            foreign = f"does not answer as a chat server does: {sent.text[:200]!r}"
            if not self.meter.works:
                raise InferenceError(f"{self.base_url} {foreign}") from error
            return Reply(refusal=f"the server {foreign}")
        if top and reply.text and not reply.tokens and not self.meter.works:
            raise InferenceError(
                f"{self.base_url} gives no log-probs: read answers as text (a judge's verdict: text, a reward's "
                "read: text), or choose a server that gives them"
            )
        return reply


class _Batch:
    """The requests of one call, and what has become of them; threads share it."""

    def __init__(self, server: ChatServer, requests: Mapping[str, dict[str, Any]], unusable: Unusable) -> None:
        self.server, self.requests, self.unusable = server, requests, unusable
        self.lock = threading.Lock()
        self.before = {name: reply for name in requests if (reply := server.kept(name)) is not None}
        self.replies = {name: reply for name, reply in self.before.items() if server.stays(name, reply, unusable)}
        self.to_ask = [name for name in requests if name not in self.replies]
        self.refused: dict[str, Reply] = {}
        self.unusable_so_far = 0
        self.ended = False  # nothing more is sent
        for name, reply in self.before.items():
            server.meter.reuse(
                reply.earlier_prompt_tokens + reply.prompt_tokens,
                reply.earlier_completion_tokens + reply.completion_tokens,
                answers=int(name in self.replies),
            )
        self.works = any(not unusable(reply.answer) for reply in self.replies.values())
        server.meter.works = server.meter.works or self.works

    def ask(self, name: str) -> None:
        """Send a request, and keep the reply.

        Raises:
            InferenceError: The run must end; nothing more is sent then.
        """
        if self.ended:
            return
        try:
            self._ask(name)
        except BaseException:
            self.ended = True
            raise

    def _ask(self, name: str) -> None:
        meter = self.server.meter
        meter.check()
        reply = self.server.send(self.requests[name]).after(self.before.get(name))
        self.server.sent.add(name)
        meter.ask(reply.prompt_tokens, reply.completion_tokens)
        if reply.refusal:
            with self.lock:
                self.refused[name] = reply
        else:
            self.server.keep(name, reply)
        self.replies[name] = reply
        why = self.unusable(reply.answer)
        with self.lock:
            self.works = self.works or not why
            meter.works = meter.works or self.works
            self.unusable_so_far += bool(why)
            useless = not self.works and self.unusable_so_far >= IN_A_ROW
        if useless:
            raise InferenceError(
                f"{self.server.base_url}: none of the first {IN_A_ROW} answers of {self.server.model} can be used. The "
                f"last one: {why}"
            )

    def keep_refusals(self) -> None:
        """Count the attempts of refused requests, unless the server refuses everything: then they say nothing."""
        if self.works or self.unusable_so_far < IN_A_ROW:
            for name, reply in self.refused.items():
                self.server.keep(name, reply)


class _ForeignReplyError(Exception):
    """What a server sent is no answer of a chat server."""


def _parsed(reply: str, request: Mapping[str, Any]) -> Reply:
    """Return what a server's JSON says."""
    try:
        body = json.loads(reply)
        if body.get("error") and not body.get("choices"):  # some servers refuse with status 200
            return Reply(refusal=f"the server refused the request: {str(body['error'])[:300]}", **_usage(body))
        choice = body["choices"][0]
        message = choice["message"]
        text, content = message.get("content") or "", (choice.get("logprobs") or {}).get("content") or []
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        found = Reply(
            text=text,
            tokens=[Token(text=token["token"], logprobs=_by_text(token["top_logprobs"])) for token in content],
            finish_reason=choice.get("finish_reason") or "",
            reasoning=reasoning,
            refusal=f"the model declined: {message['refusal'][:300]}" if message.get("refusal") and not text else "",
        )
        counted = _usage(body)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _ForeignReplyError from error
    if not counted:
        read = "".join(message["content"] for message in request["messages"])
        counted = {
            "prompt_tokens": estimated_tokens(read),
            "completion_tokens": estimated_tokens(found.text + found.reasoning),
        }
    return found.model_copy(update=counted)


def _usage(body: Any) -> dict[str, int]:
    """Return the tokens that a server says it has read and written; nothing where it does not.

    Some count thinking in the total only.
    """
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return {}
    read, written = (usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
    return {"prompt_tokens": read, "completion_tokens": max(written, (usage.get("total_tokens") or 0) - read)}


def _by_text(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probs by text; SentencePiece has a `7` that starts a word and one that does not, spelled alike."""
    merged: dict[str, float] = {}
    for token in alternatives:
        merged[token["token"]] = float(np.logaddexp(merged.get(token["token"], -np.inf), token["logprob"]))
    return merged
