"""Tokens and cost of requests to a model, forecast and counted. Knows nothing about servers."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rao_kedro.errors import GenerationError

CHARACTERS_PER_TOKEN = 4  # of English, roughly, in any modern vocabulary
TYPICAL_COMPLETION = 200  # tokens; published judgments of MT-Bench by GPT-4 have 172 on average, by this estimate


class Usage(NamedTuple):
    """Requests and tokens.

    Attributes:
        asked: Requests that were sent, including refused ones.
        prompt_tokens: Tokens read for them.
        completion_tokens: Tokens written for them, thinking included.
        reused: Cached answers of earlier runs.
        reused_prompt_tokens: Tokens read in earlier runs, for these answers and for failed attempts.
        reused_completion_tokens: Tokens written in earlier runs.
    """

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused: int = 0
    reused_prompt_tokens: int = 0
    reused_completion_tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum of both."""
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))

    def since(self, before: "Usage") -> "Usage":
        """Return the increase since an earlier reading."""
        return Usage(*(a - b for a, b in zip(self, before, strict=True)))


class Prices(NamedTuple):
    """Prices per million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Meter:
    """Counts requests and tokens of a server from several threads, and ends a run that costs too much.

    Attributes:
        usage: Requests and tokens so far.
        works: Whether the server has given a usable answer.
    """

    def __init__(self, prices: Prices | None = None, max_cost: float | None = None) -> None:
        """Start at 0.

        Args:
            prices: Prices of the model.
            max_cost: Limit on the cost of all requests; None for no limit.
        """
        self.prices, self.max_cost = prices or Prices(), max_cost
        self.usage, self.works = Usage(), False
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        """Cost of the requests so far."""
        return self.prices.cost(self.usage.prompt_tokens, self.usage.completion_tokens)

    def ask(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a request that was sent."""
        with self._lock:
            self.usage = self.usage.plus(Usage(1, prompt_tokens, completion_tokens))

    def reuse(self, prompt_tokens: int, completion_tokens: int, answers: int = 1) -> None:
        """Count answers and tokens of an earlier run or call."""
        with self._lock:
            self.usage = self.usage.plus(
                Usage(reused=answers, reused_prompt_tokens=prompt_tokens, reused_completion_tokens=completion_tokens)
            )

    def check(self) -> None:
        """End a run that costs too much.

        Raises:
            GenerationError: The cost so far is above the limit.
        """
        if self.max_cost is not None and self.cost > self.max_cost:
            raise GenerationError(
                f"{self.usage.asked} requests have cost {self.cost:.4g}, more than max_cost {self.max_cost:g}: raise "
                "max_cost to go on"
            )


class Forecast(NamedTuple):
    """Estimated tokens of requests.

    Attributes:
        requests: Number of requests.
        prompt_tokens: Estimated from the characters.
        completion_tokens: Estimated as those of typical judgments, or as the limit where that is lower.
        most_completion_tokens: Sum of the limits; None if a request has no limit.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int | None

    @classmethod
    def of(cls, requests: Iterable[Mapping[str, Any]]) -> "Forecast":
        """Return the forecast of requests with `messages` and `max_tokens`."""
        read, written, most = [], [], []
        for request in requests:
            read.append(sum(estimate_tokens(message["content"]) for message in request["messages"]))
            most.append(limit := request["max_tokens"])
            written.append(min(TYPICAL_COMPLETION, limit or TYPICAL_COMPLETION))
        return cls(len(read), sum(read), sum(written), None if None in most else sum(most))

    def describe(self, model: str, prices: Prices) -> str:
        """Return the forecast as one line of text."""
        if not self.requests:
            return f"{model}: all answers are cached, no request is sent"
        tokens = f"about {self.prompt_tokens} prompt and {self.completion_tokens} completion tokens"
        line = f"{model}: {self.requests} requests, {tokens} (estimates)"
        if not any(prices):
            return line
        if self.most_completion_tokens is None:
            most = "without an upper bound, since max_tokens is null"
        else:
            most = f"at most {prices.cost(self.prompt_tokens, self.most_completion_tokens):.4g} at the token limit"
        return f"{line}, cost about {self.cost(prices):.4g}, {most}"

    def cost(self, prices: Prices) -> float:
        """Return the expected cost."""
        return prices.cost(self.prompt_tokens, self.completion_tokens)


def estimate_tokens(text: str) -> int:
    """Return a rough estimate of the tokens of a text."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
