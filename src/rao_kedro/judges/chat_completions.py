"""Answers of a chat model to many dialogues. Requests run concurrently, and each is paid for once.

Every reply is cached as soon as it arrives, under a hash of its whole request. A request that is refused, or whose
answer cannot be used, affects only its own item, and is sent again in the next runs.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rao_kedro.config.servers import ChatModelParameters
from rao_kedro.errors import GenerationError
from rao_kedro.identity import combined_hash
from rao_kedro.judges.client import ChatClient, ChatSampling, Message
from rao_kedro.judges.metering import Meter
from rao_kedro.judges.replies import Answer, Reply, Unusable
from rao_kedro.progress import progress_of
from rao_kedro.shards import Format, Shards

MOST_UNUSABLE = 10  # so many unusable answers and no usable one mean that the server or the requests are wrong
REPLY: Format[Reply] = Format(
    lambda reply: reply.model_dump_json(exclude_defaults=True).encode(), Reply.model_validate_json
)


@dataclass(frozen=True)
class ChatServer(ChatClient):
    """A model behind an OpenAI-compatible server, with a cache of its replies.

    Attributes:
        concurrency: Concurrent requests.
        max_attempts: Number of runs that send a request whose answer cannot be used; later runs do not send it again.
        cache_dir: Directory of the cached replies; None caches none.
        meter: Counts requests and tokens, and ends the run when their cost exceeds the limit.
        sent: Keys of the requests of this run. Each request counts as one attempt per run.
    """

    concurrency: int = 16
    max_attempts: int = 3
    cache_dir: Path | None = field(default=None, compare=False)
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)
    sent: set[str] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def of(cls, asked: ChatModelParameters, base_url: str, **more: Any) -> "ChatServer":
        """Return the server that parameters describe."""
        names = ("model", "api_key_variable", "timeout", "max_retries", "concurrency", "max_attempts")
        return cls(base_url=base_url, options=asked, **asked.model_dump(include={*names}), **more)

    @cached_property
    def replies(self) -> Shards[Reply]:
        """The cached replies, by the key of their request."""
        return Shards(self.cache_dir, REPLY)

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Return the answer to each dialogue, in their order; equal dialogues are asked once.

        Args:
            dialogues: Messages of each dialogue; the answer is the next message.
            sampling: How answers are sampled, unless `options` override it.
            unusable: Returns why an answer cannot be used. Such an answer is returned like the others, and requested
                again in the next run, up to `max_attempts` runs in all.

        Raises:
            GenerationError: The server cannot be reached or refuses the key, a field of every request is wrong, the
                requests cost more than the limit, or none of the first `MOST_UNUSABLE` answers can be used. All replies
                that arrived are cached.
        """
        requests = self._requests(dialogues, sampling)
        batch = _Batch(self, dict(requests), unusable)
        executor = ThreadPoolExecutor(self.concurrency)
        try:
            futures = {key: executor.submit(batch.ask, key) for key in batch.to_ask}
            one_more = progress_of(f"asking {self.model}", len(futures), "requests")
            for future in futures.values():
                future.add_done_callback(one_more)
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            batch.ended = True
            executor.shutdown(cancel_futures=True)  # requests in flight are paid for: their replies are kept
            batch.keep_refusals()
        for future in futures.values():
            if not future.cancelled() and (error := future.exception()) is not None:
                if not isinstance(error, GenerationError):
                    raise error
                raise GenerationError(f"{error} ({self._describe_kept(batch)})") from error
        return [batch.replies[key].answer for key, _ in requests]

    def to_ask(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> dict[str, dict[str, Any]]:
        """Return the distinct requests that `answers` would send, by key: those without a cached usable answer."""
        requests = dict(self._requests(dialogues, sampling))
        return {
            key: request for key, request in requests.items() if not self.stays(key, self.replies.read(key), unusable)
        }

    def stays(self, key: str, reply: Reply | None, unusable: Unusable) -> bool:
        """Return whether a request is not sent again in this run."""
        return reply is not None and (key in self.sent or self.is_final(reply, unusable))

    def is_final(self, reply: Reply | None, unusable: Unusable) -> bool:
        """Return whether a request is never sent again: its answer is usable, or it was sent often enough."""
        return reply is not None and (reply.attempts >= self.max_attempts or not unusable(reply.answer))

    def _requests(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return the key and the request of each dialogue."""
        requests = [self.request(dialogue, sampling) for dialogue in dialogues]
        kept_by = {"model": self.identity}
        return [(combined_hash(json.dumps(request | kept_by, sort_keys=True)), request) for request in requests]

    def _describe_kept(self, batch: "_Batch") -> str:
        kept = sum(self.is_final(self.replies.read(key), batch.unusable) for key in batch.requests)
        how_many = f"{kept} of {len(batch.requests)} answers are kept, run again to go on from there"
        return how_many if kept else "no answer is kept"


class _Batch:
    """The requests of one call, shared by its threads: the cached replies, the requests to send, and their replies."""

    def __init__(self, server: ChatServer, requests: Mapping[str, dict[str, Any]], unusable: Unusable) -> None:
        self.server, self.requests, self.unusable = server, requests, unusable
        self.lock = threading.Lock()
        self.before = {key: reply for key in requests if (reply := server.replies.read(key)) is not None}
        self.replies = {key: reply for key, reply in self.before.items() if server.stays(key, reply, unusable)}
        self.to_ask = [key for key in requests if key not in self.replies]
        self.refused: dict[str, Reply] = {}
        self.unusable_so_far = 0
        self.ended = False  # nothing more is sent
        for key, reply in self.before.items():
            server.meter.reuse(
                reply.earlier_prompt_tokens + reply.prompt_tokens,
                reply.earlier_completion_tokens + reply.completion_tokens,
                answers=int(key in self.replies),
            )
        self.works = any(not unusable(reply.answer) for reply in self.replies.values())
        server.meter.works = server.meter.works or self.works

    def ask(self, key: str) -> None:
        """Send a request, and cache the reply.

        Raises:
            GenerationError: The run must end; nothing more is sent then.
        """
        if self.ended:
            return
        try:
            self._ask(key)
        except BaseException:
            self.ended = True
            raise

    def _ask(self, key: str) -> None:
        meter = self.server.meter
        meter.check()
        reply = self.server.send(self.requests[key], meter).after(self.before.get(key))
        self.server.sent.add(key)
        meter.ask(reply.prompt_tokens, reply.completion_tokens)
        if reply.refusal:
            with self.lock:
                self.refused[key] = reply
        else:
            self.server.replies.write(key, reply)
        self.replies[key] = reply
        why = self.unusable(reply.answer)
        with self.lock:
            self.works = self.works or not why
            meter.works = meter.works or self.works
            self.unusable_so_far += bool(why)
            useless = not self.works and self.unusable_so_far >= MOST_UNUSABLE
        if useless:
            raise GenerationError(
                f"{self.server.base_url}: none of the first {MOST_UNUSABLE} answers of {self.server.model} can be "
                f"used. The last one: {why}"
            )

    def keep_refusals(self) -> None:
        """Cache refusals as attempts, unless the server refuses everything: the requests are not the cause then."""
        if self.works or self.unusable_so_far < MOST_UNUSABLE:
            for key, reply in self.refused.items():
                self.server.replies.write(key, reply)
