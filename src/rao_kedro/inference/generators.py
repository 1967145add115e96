"""What every text generator takes and gives, and the choice between them. Imports neither torch nor vLLM."""

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.schemas.generation import FinishReason, SamplingParameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Dtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True)
class Completion:
    """One response to one prompt.

    Attributes:
        text: Decoded without special tokens.
        token_ids: Includes the end-of-turn token if the model wrote one.
        finish_reason: "stop" after an end-of-turn token, "length" when cut at `max_tokens`.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason


class Likelihood(NamedTuple):
    """How likely a continuation is.

    Attributes:
        logp: The sum of its tokens' log-probs, in nats.
        greedy: Whether greedy decoding writes it.
    """

    logp: float
    greedy: bool


class Generator(Protocol):
    """Writes completions; a call's result depends on its arguments only, not on the calls before."""

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], sampling: SamplingParameters
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield the position of each prompt with its `sampling.n` completions as soon as it has them.

        Args:
            prompt_ids: Token ids, generation header included, [prompts][tokens].
            sampling: How to sample.
        """
        ...

    def continuation_logps(
        self, prompt_ids: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[Likelihood]]:
        """Return how likely some continuations of each prompt are: `[prompts][continuations]`.

        Args:
            prompt_ids: `[prompts][tokens]`, none of them empty.
            continuations: Per prompt the token ids of those that are asked about, none of them empty.
        """
        ...


def finished_shards(
    generator: Generator, shards: Mapping[int, Sequence[Sequence[int]]], sampling: SamplingParameters
) -> Iterator[tuple[int, list[list[Completion]]]]:
    """Yield shards of prompts with their completions as they end; the generator sees all prompts at once.

    Args:
        generator: What writes.
        shards: Token ids `[prompts][tokens]` of each shard.
        sampling: How to sample.
    """
    places = [(shard, row) for shard, prompts in shards.items() for row in range(len(prompts))]
    written: dict[int, dict[int, list[Completion]]] = {shard: {} for shard in shards}
    for position, completions in generator.stream([shards[shard][row] for shard, row in places], sampling):
        shard, row = places[position]
        written[shard][row] = completions
        if len(written[shard]) == len(shards[shard]):
            of_shard = written.pop(shard)
            yield shard, [of_shard[row] for row in range(len(of_shard))]


def resolve_backend(backend: str) -> Literal["vllm", "transformers"]:
    """Turn "auto" into the backend that is installed.

    Raises:
        ParameterError: There is no backend of that name.
        InferenceError: vLLM was asked for and is not installed.
    """
    installed = importlib.util.find_spec("vllm") is not None
    match backend:
        case "transformers":
            return "transformers"
        case "vllm" if not installed:
            raise InferenceError("vLLM is not installed: pip install 'rao_kedro[cpu]' (or [gpu]), or set backend: auto")
        case "auto" if not installed:
            logger.warning("vLLM is not installed: text is generated with transformers, several times more slowly")
            return "transformers"
        case "auto" | "vllm":
            return "vllm"
    raise ParameterError(f"generation backend {backend!r} is not one of auto, vllm, transformers")


def make_generator(
    backend: str, model_dir: str | Path, *, dtype: Dtype = "bfloat16", max_model_len: int = 2048
) -> Generator:
    """Load a model into a generator.

    Args:
        backend: "vllm", "transformers", or "auto": vLLM where it is installed.
        model_dir: A checkpoint directory with its tokenizer.
        dtype: Precision of weights and compute.
        max_model_len: Tokens of the longest prompt and its completion together.

    Raises:
        ParameterError: There is no backend of that name.
        InferenceError: The backend is not installed or could not start, or `max_model_len` is more than the model's
            rotary embedding computes alike for every row.
        ModelError: The checkpoint cannot be opened.
    """
    if resolve_backend(backend) == "vllm":
        _refuse_other_rotary_embedding(model_dir, max_model_len)
        from rao_kedro.inference.vllm_backend import VllmGenerator

        return VllmGenerator(model_dir, dtype=dtype, max_model_len=max_model_len)
    from rao_kedro.inference.transformers_backend import TransformersGenerator

    return TransformersGenerator(model_dir, dtype=dtype)


def _refuse_other_rotary_embedding(model_dir: str | Path, max_model_len: int) -> None:
    """Refuse an engine that would compute short rows with the rotary embedding of long ones."""
    from transformers import AutoConfig

    from rao_kedro.models.rotary import rotary_limit

    limit = rotary_limit(AutoConfig.from_pretrained(str(model_dir)))
    if limit is not None and max_model_len > limit:
        raise InferenceError(
            f"max_model_len is {max_model_len}, and where it is more than {limit} the rotary embedding (dynamic or "
            f"longrope) of {model_dir} is not in vLLM what it is in training: lower max_model_len to {limit} at most"
        )


def complete(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int], stop_ids: Sequence[int]) -> Completion:
    """Cut generated ids behind the first end-of-turn token, and decode them."""
    ids = list(token_ids)
    end = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    if end is not None:
        ids = ids[: end + 1]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    return Completion(text=text, token_ids=ids, finish_reason="length" if end is None else "stop")
