"""Sends one request to an OpenAI-compatible server, and interprets its reply or its error.

The openai package retries with exponential back-off and follows the server's `Retry-After`; `server_errors`
distinguishes the refusal of one request from an error that ends a run. This module caches nothing.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rao_kedro.config.servers import PROTOCOL, RequestParameters, checked_url
from rao_kedro.errors import GenerationError
from rao_kedro.judges.metering import Meter
from rao_kedro.judges.replies import ForeignReplyError, Reply, parse_reply, read_usage
from rao_kedro.judges.server_errors import explain_ending_error, explain_refusal

if TYPE_CHECKING:
    from openai import OpenAI

Message = Mapping[str, str]


@dataclass(frozen=True)
class ChatSampling:
    """How an answer is sampled.

    Attributes:
        max_tokens: Limit on the tokens of the answer; None leaves it to the server.
        temperature: 0 takes the likeliest token; None leaves it to the server.
        top_logprobs: Alternatives per token that are returned with their log-probs; 0 requests no log-probs.
    """

    max_tokens: int | None
    temperature: float | None = 0.0
    top_logprobs: int = 0

    def fields(self, options: RequestParameters) -> dict[str, Any]:
        """Return the fields of a request besides model and messages; `options` override these values."""
        asked = {
            "max_tokens": self.max_tokens if options.max_tokens == PROTOCOL else options.max_tokens,
            "temperature": self.temperature if options.temperature == PROTOCOL else options.temperature,
            "top_logprobs": self.top_logprobs,
        }
        other_name = options.max_tokens_field != "max_tokens"
        named = {"max_tokens_field": options.max_tokens_field} if other_name else {}
        return asked | named | options.further_fields


@dataclass(frozen=True)
class ChatClient:
    """A client of one model behind an OpenAI-compatible server.

    Attributes:
        base_url: The server's URL up to and including `/v1`; empty for a server that is not started yet.
        model: The model's name at the server.
        api_key_variable: The environment variable that holds the key; a local server needs none.
        timeout: Seconds for one request.
        max_retries: Retries of a request when the server is busy, fails or cannot be reached.
        options: Fields of a request that override those of the benchmark's protocol.
        serves_content: Whether the model's name is a hash of its content; replies then do not depend on the server.

    Raises:
        ParameterError: The URL contains credentials, which would appear in logs.
    """

    base_url: str
    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    timeout: float = 600.0
    max_retries: int = 5
    options: RequestParameters = field(default_factory=RequestParameters)
    serves_content: bool = False

    def __post_init__(self) -> None:
        """Refuse credentials in the URL."""
        if self.base_url:
            checked_url(self.base_url)

    @property
    def identity(self) -> str:
        """What replies depend on besides the request: the model and its server, or the model's content."""
        if self.serves_content:
            return self.model
        url = urlsplit(self.base_url)
        return f"{self.model} at {url.scheme.lower()}://{url.netloc.lower()}{url.path.rstrip('/')}"

    def request(self, dialogue: Sequence[Message], sampling: ChatSampling) -> dict[str, Any]:
        """Return the request for the next message of a dialogue."""
        messages = [dict(message) for message in dialogue]
        return {"model": self.model, **sampling.fields(self.options), "messages": messages}

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        key = os.environ.get(self.api_key_variable, "").strip() or "none"
        if not (key.isascii() and key.isprintable()):  # else the HTTP library's error would quote it
            raise GenerationError(
                f"the key in the environment variable {self.api_key_variable} contains a line break or a character "
                "that is not ASCII: set it again"
            )
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=self.max_retries)

    def send(self, request: Mapping[str, Any], meter: Meter) -> Reply:
        """Send a request and return the reply; a refusal of this request is a reply too.

        Args:
            request: As `request` returns it.
            meter: Records whether the server has given a usable answer. If so, a malformed reply concerns this request
                only.

        Raises:
            GenerationError: The error concerns all requests; see `server_errors`.
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
            raise GenerationError(
                f"{self.base_url} refuses the key of the environment variable {self.api_key_variable}"
            ) from error
        except openai.APITimeoutError as error:
            raise GenerationError(f"{self.base_url} did not answer within {self.timeout:g} s: raise timeout") from error
        except openai.OpenAIError as error:
            if (why := explain_ending_error(error, meter.works)) is not None:
                raise GenerationError(f"{self.base_url} cannot answer: {why}") from error
            assert isinstance(error, openai.APIStatusError)
            return Reply(refusal=explain_refusal(error), **read_usage(error.body))
        try:
            reply = parse_reply(sent.text, request)
        except ForeignReplyError as error:
            foreign = f"did not send a chat completion: {sent.text[:200]!r}"
            if not meter.works:
                raise GenerationError(f"{self.base_url} {foreign}") from error
            return Reply(refusal=f"the server {foreign}")
        if top and reply.text and not reply.tokens and not meter.works:
            raise GenerationError(
                f"{self.base_url} returns no log-probs: read answers as text (a judge's verdict: text, a reward's "
                "read: text), or choose a server that returns them"
            )
        return reply
