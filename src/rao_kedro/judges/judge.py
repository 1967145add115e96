"""A model that is asked for judgments: behind an OpenAI-compatible server, or served here by vLLM."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rao_kedro.config.benchmarks import JudgeServerParameters
from rao_kedro.errors import InferenceError
from rao_kedro.generation.engine_options import identity_with
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling, Message
from rao_kedro.judges.metering import Forecast, Meter, Prices, Usage
from rao_kedro.judges.replies import Answer, Unusable

logger = logging.getLogger(__name__)

TOP_LOGPROBS = 20  # that a server of ours gives, as OpenAI's does, so that one start serves all who ask


class Asked(Protocol):
    """What answers dialogues: a `Judge`, or a `ChatServer`."""

    @property
    def model(self) -> str:
        """Name it in tables."""
        ...

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Return the answer to each dialogue, in their order; see `ChatServer.answers`."""
        ...


class Judge:
    """Answers dialogues, each of which it is asked once where answers are kept."""

    def __init__(self, how: JudgeServerParameters, cache_dir: str | Path | None = None) -> None:
        """Say who judges.

        Args:
            how: The model, which vLLM serves here from the first question on until this process ends, or the server
                that it is behind; and how it is asked.
            cache_dir: Where answers are kept, so that none is paid for twice.
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
        """Name it in tables."""
        return self.how.model

    @property
    def usage(self) -> Usage:
        """What all its answers so far took."""
        return self._server.meter.usage

    @property
    def prices(self) -> Prices:
        """What it costs."""
        return self._server.meter.prices

    @property
    def identity(self) -> str:
        """Return what answers are kept by: the model's name and its server, or the content of a model served here."""
        return self._named.identity

    @cached_property
    def _named(self) -> ChatServer:
        """The server with the name that it is told: of a model served here, its content."""
        from rao_kedro.identity import content_hash
        from rao_kedro.models.hub import local_checkpoint

        if self.how.base_url is not None:
            return self._server
        return replace(self._server, model=identity_with(content_hash(local_checkpoint(self.model)), self.how.engine))

    def to_ask(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> dict[str, dict[str, Any]]:
        """Return the different requests that `answers` would send, since no usable answer is kept, by their names."""
        return self._named.to_ask(dialogues, sampling, unusable)

    def forecast(self, requests: Iterable[Mapping[str, Any]]) -> None:
        """Log in one line what requests will take.

        Args:
            requests: All that this judge is going to be asked, as `to_ask` returns them.

        Raises:
            InferenceError: They are expected to cost more than they may.
        """
        self._forecast_is_made = True
        expected = Forecast.of(requests)
        line = f"judging with {expected.described(self.model, self.prices)}"
        if self.how.max_cost is not None and expected.cost(self.prices) > self.how.max_cost:
            raise InferenceError(f"{line}: more than max_cost {self.how.max_cost:g}, so that nothing is asked")
        logger.info("%s", line)

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Return the answer to each dialogue, in their order; equal dialogues are asked once.

        Raises:
            InferenceError: As `ChatServer.answers`; or these dialogues are expected to cost more than they may, where
                nobody asked for a forecast before.
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
    """Stands in for a judge, to learn what that one is going to be asked.

    Attributes:
        requests: The different ones, by their names.
    """

    def __init__(self, judge: Judge) -> None:
        """Say for whom."""
        self.judge, self.requests = judge, dict[str, dict[str, Any]]()

    @property
    def model(self) -> str:
        """Name the judge."""
        return self.judge.model

    def answers(
        self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling, unusable: Unusable = Answer.failure
    ) -> list[Answer]:
        """Note what the judge would be asked, and return empty answers."""
        self.requests |= self.judge.to_ask(dialogues, sampling, unusable)
        return [Answer(text="")] * len(dialogues)
