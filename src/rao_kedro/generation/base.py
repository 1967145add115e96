"""The interface of text generators. Imports neither torch nor vLLM."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from rao_kedro.config.generation import EngineParameters, FinishReason, SamplingParameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Dtype = Literal["bfloat16", "float16", "float32"]
ONE_ENGINE = EngineParameters()


@dataclass(frozen=True)
class Completion:
    """One response to one prompt.

    Attributes:
        text: The text without special tokens, up to a stop text.
        token_ids: All tokens that the model wrote, with the end-of-turn token or the stop text that ended the response.
        finish_reason: "stop" after an end-of-turn token or a stop text, "length" when cut at `max_tokens`.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason


class Likelihood(NamedTuple):
    """The likelihood of a continuation.

    Attributes:
        logp: Sum of its tokens' log-probs, in nats.
        greedy: Whether greedy decoding produces this continuation.
    """

    logp: float
    greedy: bool


class Generator(Protocol):
    """Writes completions. The result of a call depends on its arguments only, not on earlier calls."""

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], sampling: SamplingParameters
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield each prompt's position and its `sampling.n` completions, as soon as they are complete.

        Args:
            prompt_ids: Token ids, generation header included: `[prompts][tokens]`.
            sampling: How to sample.
        """
        ...

    def continuation_logps(
        self, prompt_ids: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[Likelihood]]:
        """Return the likelihood of each given continuation of each prompt: `[prompts][continuations]`.

        Args:
            prompt_ids: Token ids `[prompts][tokens]`; no prompt is empty.
            continuations: Token ids `[prompts][continuations][tokens]`; no continuation is empty.
        """
        ...


class Call(NamedTuple):
    """The prompts of one call of a generator.

    Attributes:
        shards: Token ids `[prompts][tokens]` of each shard, by its number.
        sampling: How to sample.
    """

    shards: Mapping[int, Sequence[Sequence[int]]]
    sampling: SamplingParameters


@runtime_checkable
class ParallelGenerator(Generator, Protocol):
    """Several generators of the same model, which work on several calls at a time."""

    @property
    def size(self) -> int:
        """The number of generators."""
        ...

    def stream_calls(
        self, calls: Sequence[tuple[Sequence[Sequence[int]], SamplingParameters]]
    ) -> Iterator[tuple[int, int, list[Completion]]]:
        """Yield the results of `stream` for each call, preceded by the position of the call."""
        ...


def stream_shards(generator: Generator, calls: Sequence[Call]) -> Iterator[tuple[int, list[list[Completion]]]]:
    """Yield each shard's number and completions `[prompts][n]`, as soon as they are complete.

    The generator gets all prompts of a call at once. A `ParallelGenerator` divides the calls among its generators. It
    also divides the shards of a greedy call, since greedy responses do not depend on the other prompts of the call.

    Args:
        generator: Writes the completions.
        calls: Calls that share no shard.
    """
    if isinstance(generator, ParallelGenerator):
        calls = [part for call in calls for part in (_divide(call, generator.size) if call.sampling.greedy else [call])]
    prompts = [[ids for shard in call.shards.values() for ids in shard] for call in calls]
    places = [[(number, row) for number, shard in call.shards.items() for row in range(len(shard))] for call in calls]
    written: dict[int, dict[int, list[Completion]]] = {}
    asked = [(ids, call.sampling) for ids, call in zip(prompts, calls, strict=True)]
    for of_call, position, completions in _stream(generator, asked):
        number, row = places[of_call][position]
        of_shard = written.setdefault(number, {})
        of_shard[row] = completions
        if len(of_shard) == len(calls[of_call].shards[number]):
            del written[number]
            yield number, [of_shard[row] for row in range(len(of_shard))]


def _divide(call: Call, n: int) -> list[Call]:
    numbers = list(call.shards)
    parts = [numbers[start::n] for start in range(min(n, len(numbers)))]
    return [Call({number: call.shards[number] for number in part}, call.sampling) for part in parts]


def _stream(
    generator: Generator, calls: Sequence[tuple[Sequence[Sequence[int]], SamplingParameters]]
) -> Iterator[tuple[int, int, list[Completion]]]:
    if isinstance(generator, ParallelGenerator):
        yield from generator.stream_calls(calls)
        return
    for i, (prompt_ids, sampling) in enumerate(calls):
        for position, completions in generator.stream(prompt_ids, sampling):
            yield i, position, completions


def complete(
    tokenizer: "PreTrainedTokenizerBase",
    token_ids: Sequence[int],
    stop_ids: Sequence[int],
    stop: Sequence[str] = (),
) -> Completion:
    """Cut generated ids after the first end-of-turn token or stop text, and decode them.

    Args:
        tokenizer: Decodes the ids.
        token_ids: The generated ids, which padding may follow.
        stop_ids: End-of-turn tokens.
        stop: Stop texts. As in vLLM, the text ends before the first one that is complete.
    """
    ids = list(token_ids)
    end = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    if end is not None:
        ids = ids[: end + 1]
    text = decode_ids(tokenizer, ids)
    if found := find_stop_text(text, stop):
        n = next(n for n in range(1, len(ids) + 1) if find_stop_text(decode_ids(tokenizer, ids[:n]), stop))
        return Completion(text=text[: found.start], token_ids=ids[:n], finish_reason="stop")
    return Completion(text=text, token_ids=ids, finish_reason="length" if end is None else "stop")


class _Place(NamedTuple):
    start: int
    end: int


def find_stop_text(text: str, stop: Sequence[str]) -> _Place | None:
    """Return the place of the stop text that is complete first; None if there is none."""
    found = [_Place(start, start + len(one)) for one in stop if (start := text.find(one)) >= 0]
    return min(found, key=lambda place: place.end, default=None)


def decode_ids(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    """Return the text of token ids without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
