"""What asking a model takes: tokens and money, forecast and counted. Knows nothing of servers."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rao_kedro.errors import InferenceError

CHARACTERS_PER_TOKEN = 4  # of English, roughly, in any modern vocabulary
TYPICAL_COMPLETION = 200  # tokens; published judgments of MT-Bench by GPT-4 have 172 in the mean, by this estimate


class Usage(NamedTuple):
    """What answers took.

    Attributes:
        asked: Requests that were sent, those that were refused included.
        prompt_tokens: Tokens that were read for them.
        completion_tokens: Tokens that were written for them, thinking included.
        reused: Answers that were kept from before.
        reused_prompt_tokens: Tokens that were read before, for these and for failed attempts.
        reused_completion_tokens: Tokens that were written before.
    """

    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused: int = 0
    reused_prompt_tokens: int = 0
    reused_completion_tokens: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Return both together."""
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))

    def since(self, before: "Usage") -> "Usage":
        """Return what came after an earlier reading."""
        return Usage(*(a - b for a, b in zip(self, before, strict=True)))


class Prices(NamedTuple):
    """Prices per million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the cost of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Meter:
    """Counts what a server is asked, from several threads, and ends what costs more than it may.

    Attributes:
        usage: So far.
        works: An answer of the server was of use.
    """

    def __init__(self, prices: Prices | None = None, max_cost: float | None = None) -> None:
        """Begin at 0.

        Args:
            prices: Of the model.
            max_cost: What all that is asked may cost.
        """
        self.prices, self.max_cost = prices or Prices(), max_cost
        self.usage, self.works = Usage(), False
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        """What was asked has cost."""
        return self.prices.cost(self.usage.prompt_tokens, self.usage.completion_tokens)

    def ask(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a request that was sent."""
        with self._lock:
            self.usage = self.usage.plus(Usage(1, prompt_tokens, completion_tokens))

    def reuse(self, prompt_tokens: int, completion_tokens: int, answers: int = 1) -> None:
        """Count tokens of an earlier run or call."""
        with self._lock:
            self.usage = self.usage.plus(
                Usage(reused=answers, reused_prompt_tokens=prompt_tokens, reused_completion_tokens=completion_tokens)
            )

    def check(self) -> None:
        """End what costs too much.

        Raises:
            InferenceError: The cost so far is above the limit.
        """
        if self.max_cost is not None and self.cost > self.max_cost:
            raise InferenceError(
                f"{self.usage.asked} requests have cost {self.cost:.4g}, more than max_cost {self.max_cost:g}: raise "
                "max_cost to go on"
            )


class Forecast(NamedTuple):
    """What requests are going to take, as far as it can be known before.

    Attributes:
        requests: How many.
        prompt_tokens: Estimated from the characters.
        completion_tokens: Estimated: a typical judgment, or the limit where that is less.
        most_completion_tokens: All that the limits allow; None where a request has none.
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

    def described(self, model: str, prices: Prices) -> str:
        """Return one line that says it."""
        if not self.requests:
            return f"{model}: all answers are kept, nothing is asked"
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
    """Return roughly how many tokens a text has."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
