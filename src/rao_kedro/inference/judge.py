"""A model that is asked for judgments: behind an OpenAI-compatible server, or served here by vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

from rao_kedro.errors import ParameterError
from rao_kedro.inference.chat_completions import Answer, ChatSampling, ChatServer, Message
from rao_kedro.inference.engine_options import identity_with
from rao_kedro.schemas.generation import ServedEngineParameters

TOP_LOGPROBS = 20  # that a server of ours gives, as OpenAI's does, so that one start serves all who ask


class Usage(NamedTuple):
    """What answers took.

    Attributes:
        answers: How many.
        prompt_tokens: Tokens that were read, as servers count them.
        completion_tokens: Tokens that were written.
    """

    answers: int
    prompt_tokens: int
    completion_tokens: int

    def after(self, more: Sequence[Answer]) -> "Usage":
        """Return what these answers took, too."""
        read = sum(answer.prompt_tokens for answer in more)
        written = sum(answer.completion_tokens for answer in more)
        return Usage(self.answers + len(more), self.prompt_tokens + read, self.completion_tokens + written)

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the cost at prices per million tokens, in their currency."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6


class Asked(Protocol):
    """What answers dialogues: a `Judge`, or a `ChatServer`."""

    @property
    def model(self) -> str:
        """Name it in tables."""
        ...

    def answers(self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling) -> list[Answer]:
        """Return the answer to each dialogue, in their order."""
        ...


class Judge:
    """Answers dialogues, each of which it is asked once where answers are kept.

    Attributes:
        usage: What all its answers so far took, those that were kept from earlier included.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        max_model_len: int = 4096,
        concurrency: int = 16,
        timeout: float = 600.0,
        max_retries: int = 5,
        cache_dir: str | Path | None = None,
        engine: ServedEngineParameters | Mapping[str, Any] | None = None,
    ) -> None:
        """Say who judges.

        Args:
            model: A checkpoint (directory or hub name), which vLLM serves here from the first question on until this
                process ends; or, with `base_url`, the name that the server there knows.
            base_url: Of an OpenAI-compatible server, up to `/v1`.
            api_key_variable: The environment variable with its key.
            max_model_len: Tokens of a prompt and its answer, where vLLM serves the model here.
            concurrency: Requests at a time.
            timeout: Seconds for one request.
            max_retries: Of a request, with growing pauses.
            cache_dir: Where answers are kept, so that none is paid for twice.
            engine: Options of vLLM, where it serves the model here.

        Raises:
            ParameterError: The URL holds credentials, or an option of the engine is unknown or not for this server.
        """
        self.engine = _engine(engine or {}, base_url)
        self.model, self.base_url, self.max_model_len = model, base_url, max_model_len
        self.usage = Usage(0, 0, 0)
        self._server = ChatServer(
            base_url=base_url or "",
            model=model,
            api_key_variable=api_key_variable,
            concurrency=concurrency,
            timeout=timeout,
            max_retries=max_retries,
            cache_dir=Path(cache_dir) if cache_dir else None,
            serves_content=base_url is None,
        )

    @property
    def identity(self) -> str:
        """Return what answers are kept by: the model's name and its server, or the content of a model served here."""
        return self._named.identity

    @cached_property
    def _named(self) -> ChatServer:
        """The server with the name that it is told: of a model served here, its content."""
        from rao_kedro.models.hub import local_checkpoint
        from rao_kedro.models.identity import content_hash

        if self.base_url:
            return self._server
        return replace(self._server, model=identity_with(content_hash(local_checkpoint(self.model)), self.engine))

    def answers(self, dialogues: Sequence[Sequence[Message]], sampling: ChatSampling) -> list[Answer]:
        """Return the answer to each dialogue, in their order; equal dialogues are asked once.

        Raises:
            InferenceError: The server stays away, refuses, or does not answer as a chat server does.
        """
        server = self._named
        if self.base_url is None and server.unanswered(dialogues, sampling):
            server = replace(server, base_url=self._served(sampling.top_logprobs))
        found = server.answers(dialogues, sampling)
        self.usage = self.usage.after(found)
        return found

    def _served(self, top_logprobs: int) -> str:
        from rao_kedro.inference.vllm_server import served
        from rao_kedro.models.hub import local_checkpoint

        most = max(TOP_LOGPROBS, top_logprobs)
        directory = local_checkpoint(self.model)
        return served(directory, self.identity, self.max_model_len, most, patience=600, engine=self.engine)


def _engine(engine: ServedEngineParameters | Mapping[str, Any], base_url: str | None) -> ServedEngineParameters:
    try:
        options = ServedEngineParameters.model_validate(engine)
    except ValidationError as error:
        wrong = "; ".join(f"engine.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ParameterError(f"judge: {wrong}") from error
    if base_url is not None and options.changed():
        raise ParameterError(
            f"judge: engine.{', engine.'.join(options.changed())}: the server at {base_url} has options of its own; "
            "engine is for a judge that vLLM serves here, without base_url"
        )
    return options
