"""A judge: a model on an OpenAI-compatible server, or a checkpoint that vLLM serves on this machine."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rao_kedro.config.servers import JudgeServerParameters
from rao_kedro.errors import GenerationError
from rao_kedro.generation.engine_options import identity_with
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling, Message
from rao_kedro.judges.metering import Forecast, Meter, Prices, Usage
from rao_kedro.judges.replies import Answer, Unusable
from rao_kedro.progress import NOTICE

logger = logging.getLogger(__name__)

TOP_LOGPROBS = 20  # OpenAI's limit; one start of a server suffices for every benchmark


class ChatModel(Protocol):
    """A model that answers dialogues: a `Judge`, or a `ChatServer`."""

    @property
    def model(self) -> str:
        """The model's name in tables."""
        ...

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Return the answer to each dialogue, in their order; see `ChatServer.answers`."""
        ...


class Judge:
    """Answers dialogues. With a cache of replies, each dialogue is sent once."""

    def __init__(self, how: JudgeServerParameters, cache_dir: str | Path | None = None) -> None:
        """Set the judge.

        Args:
            how: The model, its server and the fields of its requests. Without a server, vLLM serves the model on this
                machine from the first request until this process ends.
            cache_dir: Directory of the cached replies, so that none is paid for twice; None caches none.
        """
        self.how = how
        self._forecast_is_made = False
        self._server = ChatServer.of(
            how,
            how.base_url or "",
            cache_dir=Path(cache_dir) if cache_dir else None,
            serves_content=how.base_url is None,
            meter=Meter(Prices(how.prompt_price, how.completion_price), how.max_cost),
        )

    @property
    def model(self) -> str:
        """The model's name in tables."""
        return self.how.model

    @property
    def usage(self) -> Usage:
        """Requests and tokens so far."""
        return self._server.meter.usage

    @property
    def prices(self) -> Prices:
        """Prices of its tokens."""
        return self._server.meter.prices

    @property
    def identity(self) -> str:
        """What replies depend on besides the request: the model's name and server, or the content of a local model."""
        return self._named.identity

    @cached_property
    def _named(self) -> ChatServer:
        """The server with the model's name in requests: a hash of the model's content if vLLM serves it."""
        from rao_kedro.identity import content_hash
        from rao_kedro.models.hub import local_checkpoint

        if self.how.base_url is not None:
            return self._server
        return replace(self._server, model=identity_with(content_hash(local_checkpoint(self.model)), self.how.engine))

    def to_ask(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> dict[str, dict[str, Any]]:
        """Return the distinct requests that `answers` would send, by key: those without a cached usable answer."""
        return self._named.to_ask(dialogues, sampling, unusable)

    def forecast(self, requests: Iterable[Mapping[str, Any]]) -> None:
        """Log in one line how many tokens requests will take, and what they will cost.

        Args:
            requests: All requests of this judge, as `to_ask` returns them.

        Raises:
            GenerationError: Their expected cost exceeds the limit.
        """
        self._forecast_is_made = True
        expected = Forecast.of(requests)
        line = f"judging with {expected.describe(self.model, self.prices)}"
        if self.how.max_cost is not None and expected.cost(self.prices) > self.how.max_cost:
            raise GenerationError(f"{line}: more than max_cost {self.how.max_cost:g}, so no request is sent")
        logger.info("%s", line, extra=NOTICE)

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Return the answer to each dialogue, in their order; equal dialogues are asked once.

        Raises:
            GenerationError: As in `ChatServer.answers`. Also if no forecast was made before, and the expected cost of
                these dialogues exceeds the limit.
        """
        server = self._named
        if not self._forecast_is_made:
            self.forecast(self.to_ask(dialogues, sampling, unusable).values())
        if self.how.base_url is None and server.to_ask(dialogues, sampling, unusable):
            server = replace(server, base_url=self._served(sampling.top_logprobs))
        return server.answers(dialogues, sampling, unusable)

    def _served(self, top_logprobs: int) -> str:
        from rao_kedro.judges.vllm_server import serve_once
        from rao_kedro.models.hub import local_checkpoint

        most = max(TOP_LOGPROBS, top_logprobs)
        directory, how = local_checkpoint(self.model), self.how
        return serve_once(directory, self.identity, how.max_model_len, most, patience=600, engine=how.engine)


class Rehearsal:
    """Stands in for a judge, and collects the requests that would be sent to the judge.

    Attributes:
        requests: The distinct requests, by their keys.
    """

    def __init__(self, judge: Judge) -> None:
        """Stand in for this judge."""
        self.judge, self.requests = judge, dict[str, dict[str, Any]]()

    @property
    def model(self) -> str:
        """The judge's name in tables."""
        return self.judge.model

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Collect the requests that would be sent to the judge, and return empty answers."""
        self.requests |= self.judge.to_ask(dialogues, sampling, unusable)
        return [Answer(text="")] * len(dialogues)
