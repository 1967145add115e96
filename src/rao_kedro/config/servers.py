"""Parameters of models behind OpenAI-compatible servers, judges among them. Knows nothing of what they are asked."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from rao_kedro.config.base import Parameters
from rao_kedro.config.generation import ServedEngineParameters
from rao_kedro.errors import ParameterError

Protocol = Literal["protocol"]
PROTOCOL: Protocol = "protocol"
SET_HERE = ("model", "messages", "n", "stream", "logprobs", "top_logprobs", "max_completion_tokens")


class RequestParameters(Parameters):
    """The fields of a request that a user can set. Replies are cached under all of them.

    `protocol` is the value of the benchmark or the reward: one token at temperature 1 for AlpacaEval, 2048 tokens at
    temperature 0 for MT-Bench's judge. Null leaves a field out of the request, which newer models need.

    Attributes:
        max_tokens: Maximal tokens of a reply, including its thinking.
        max_tokens_field: The server's name of this field; newer OpenAI models refuse `max_tokens`.
        temperature: Temperature of the sampling; 0 takes the likeliest token.
        top_p: Only the likeliest tokens are sampled that together have this probability.
        top_k: Only this many of the likeliest tokens are sampled (vLLM).
        min_p: Only tokens with at least this share of the likeliest one's probability are sampled (vLLM).
        repetition_penalty: Divides the logits of tokens that occurred before (vLLM).
        stop: Strings that end a reply.
        seed: Seeds the server's sampling.
        reasoning_effort: How long a reasoning model thinks, in the words of its server.
        chat_template_kwargs: Variables of the chat template (vLLM), for example {enable_thinking: false}.
        extra_body: Further fields of the request's JSON.
    """

    max_tokens: Annotated[int, Field(ge=1)] | Protocol | None = PROTOCOL
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: Annotated[float, Field(ge=0)] | Protocol | None = PROTOCOL
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    stop: list[str] | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    extra_body: dict[str, Any] = {}

    @field_validator("extra_body")
    @classmethod
    def _has_only_other_fields(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(extra_body.keys() & (RequestParameters.model_fields.keys() - {"extra_body"})):
            raise ValueError(f"{', '.join(own)} of extra_body is a parameter of its own: set it there")
        if fixed := sorted(extra_body.keys() & {*SET_HERE}):
            raise ValueError(f"{', '.join(fixed)} cannot be set by extra_body")
        return extra_body

    @property
    def further_fields(self) -> dict[str, Any]:
        """Fields of a request besides `max_tokens` and `temperature`, where they are set."""
        names = RequestParameters.model_fields.keys() - {"max_tokens", "max_tokens_field", "temperature", "extra_body"}
        chosen = {name: getattr(self, name) for name in sorted(names)}
        return {name: value for name, value in chosen.items() if value is not None} | self.extra_body


class ChatModelParameters(RequestParameters):
    """A model that is asked over HTTP.

    Attributes:
        model: The server's name of the model.
        api_key_variable: Environment variable that holds the server's key; a local server needs none.
        concurrency: Number of requests at the same time.
        timeout: Seconds per request.
        max_retries: Retries of a request when the server is busy, fails or cannot be reached, with exponential
            back-off.
        max_attempts: Number of runs that send a request whose reply was refused, empty, filtered, cut or unreadable.
            After them the request counts as one without a reply.
    """

    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(600.0, gt=0)
    max_retries: int = Field(5, ge=0)
    max_attempts: int = Field(3, ge=1)

    @field_validator("api_key_variable")
    @classmethod
    def _is_a_name(cls, variable: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
            raise ValueError("must be the name of an environment variable that holds the key, not the key")
        return variable


def checked_url(base_url: str) -> str:
    """Return the address of a server. It must not hold a secret, since parameters are written to logs and records.

    Raises:
        ParameterError: The address is not an http address, or holds credentials or a query. The message does not quote
            it.
    """
    try:
        url = urlsplit(base_url)
    except ValueError as error:
        raise ParameterError("base_url is no address") from error
    if url.username is not None or "@" in base_url:
        raise ParameterError(
            "base_url holds credentials (user:password@...): put the key of the server into the environment variable "
            "that api_key_variable names"
        )
    if url.query or url.fragment:
        raise ParameterError(
            "base_url has a query (?...), where a key could stand: leave it out, and put the key of the server into "
            "the environment variable that api_key_variable names"
        )
    if url.scheme.lower() not in ("http", "https") or not url.netloc:
        raise ParameterError("base_url must begin with http:// or https:// and the name of a server")
    return base_url


class ServerParameters(ChatModelParameters):
    """A model behind an OpenAI-compatible server.

    Attributes:
        base_url: Address of the server, up to `/v1`.
    """

    base_url: str

    _checked_url = field_validator("base_url")(checked_url)


class JudgeServerParameters(ChatModelParameters):
    """A judge and its prices; see `rao_kedro.judges.judge.Judge`.

    Attributes:
        model: With `base_url`, the server's name of the model; without it, a checkpoint that vLLM serves on this
            machine.
        base_url: Address of an OpenAI-compatible server, up to `/v1`.
        max_model_len: Tokens of a prompt together with its reply, where vLLM serves the model.
        engine: Options of vLLM, where it serves the model.
        prompt_price: Price of a million tokens that the judge reads.
        completion_price: Price of a million tokens that the judge writes, including its thinking.
        max_cost: Maximal cost of a run. A run with a higher forecast is refused, and a run ends once it has cost more.
    """

    base_url: str | None = None
    engine: ServedEngineParameters = ServedEngineParameters()
    max_model_len: int = Field(8192, ge=2)
    prompt_price: float = Field(0.0, ge=0)
    completion_price: float = Field(0.0, ge=0)
    max_cost: float | None = Field(None, ge=0)

    _checked_url = field_validator("base_url")(lambda url: url and checked_url(url))

    @model_validator(mode="after")
    def _a_limit_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("max_cost needs prompt_price and completion_price, per million tokens")
        return self

    @model_validator(mode="after")
    def _engine_is_here(self) -> Self:
        if self.base_url is not None and self.engine.changed():
            raise ValueError("engine is for a judge that vLLM serves here; a server at base_url has its own options")
        return self


class JudgeParameters(JudgeServerParameters):
    """The judge of the benchmarks.

    Attributes:
        verdict: `logprobs` reads AlpacaEval's preference from the log-probs of the judge's first token, as AlpacaEval
            does. `text` reads the name of the better output, which gives a preference of 1 or 2. It is for judges that
            think or give no log-probs; they may write 2048 tokens, at temperature 0.
    """

    verdict: Literal["logprobs", "text"] = "logprobs"
