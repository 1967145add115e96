"""Generates text with transformers, which is slower than vLLM and runs wherever torch does.

Knows no files but the checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.generation.base import Completion, Dtype, Likelihood, complete, decode_ids, find_stop_text
from rao_kedro.models.adapters import merge_adapter
from rao_kedro.models.chat_format import end_of_turn_ids, load_tokenizer
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.packing import TokenIds
from rao_kedro.models.rotary import refuse_long_rows

if TYPE_CHECKING:
    from transformers import LogitsProcessorList, PreTrainedTokenizerBase

MAX_POSITIONS = 512  # positions of a batch whose log-probs over the whole vocabulary are in memory at once
SORTED_BATCHES = 8  # batches whose rows are sorted by length together: less padding, and early prompts finish early


class TransformersGenerator:
    """Batched, left-padded decoding."""

    def __init__(
        self, model_dir: str | Path, dtype: Dtype = "bfloat16", batch_rows: int = 32, lora_path: str | None = None
    ) -> None:
        """Load the model.

        Args:
            model_dir: A checkpoint directory with its tokenizer.
            dtype: Precision of weights and compute.
            batch_rows: Completions that are generated at once; bounds memory.
            lora_path: A LoRA adapter, which is merged into the model's weights.

        Raises:
            ModelError: The checkpoint or the adapter cannot be opened.
        """
        self.tokenizer = load_tokenizer(model_dir)
        self.stop_ids = end_of_turn_ids(model_dir, self.tokenizer)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_causal_lm(model_dir, getattr(torch, dtype))
        self.model = (model if lora_path is None else merge_adapter(model, lora_path)).to(self.device).eval()
        self.batch_rows = batch_rows

    def stream(
        self, prompt_ids: Sequence[Sequence[int]], sampling: SamplingParameters
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield each prompt's `sampling.n` completions; see `Generator`.

        Raises:
            ModelError: A prompt with its completion may be longer than the model's rotary embedding allows.
        """
        refuse_long_prompts(self.model, prompt_ids, sampling.max_tokens)
        rows = [i for i in range(len(prompt_ids)) for _ in range(sampling.n)]
        window = SORTED_BATCHES * self.batch_rows
        for start in range(0, len(rows), window):
            rows[start : start + window] = sorted(rows[start : start + window], key=lambda i: len(prompt_ids[i]))
        completions: list[list[Completion]] = [[] for _ in prompt_ids]
        with torch.random.fork_rng():
            torch.manual_seed(sampling.seed)
            for start in range(0, len(rows), self.batch_rows):
                batch = rows[start : start + self.batch_rows]
                with torch.inference_mode():
                    prompts = [prompt_ids[i] for i in batch]
                    written = continue_prompts(self.model, prompts, sampling, self.stop_ids, tokenizer=self.tokenizer)
                for i, ids in zip(batch, written, strict=True):
                    completions[i].append(complete(self.tokenizer, ids, self.stop_ids, sampling.stop))
                    if len(completions[i]) == sampling.n:
                        yield i, completions[i]

    def continuation_logps(
        self, prompt_ids: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
    ) -> list[list[Likelihood]]:
        """Return the likelihood of each given continuation of each prompt; see `Generator`.

        Continuations of a prompt that differ in their last token only are computed in one row.

        Raises:
            ModelError: A prompt with its continuation is longer than the model's rotary embedding allows.
        """
        asked: dict[tuple[int, ...], list[tuple[int, int, Sequence[int]]]] = {}
        for i, (prompt, of_prompt) in enumerate(zip(prompt_ids, continuations, strict=True)):
            for j, ids in enumerate(of_prompt):
                asked.setdefault((*prompt, *ids[:-1]), []).append((i, j, ids))
        refuse_long_prompts(self.model, [*asked], 0)
        found: list[list[Likelihood]] = [[Likelihood(0.0, True)] * len(of_prompt) for of_prompt in continuations]
        read = {row: max(len(ids) for *_, ids in places) for row, places in asked.items()}
        for rows in _batches(sorted(read, key=read.__getitem__), read, self.batch_rows):
            for row, logps in zip(rows, self._last_logps(rows, read[rows[-1]]), strict=True):
                for i, j, ids in asked[row]:
                    tokens, own = torch.tensor(ids, device=self.device), logps[-len(ids) :]
                    logp = own.gather(1, tokens[:, None]).sum()
                    found[i][j] = Likelihood(float(logp), bool((own.argmax(-1) == tokens).all()))
        return found

    def _last_logps(self, rows: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """Return the log-probs `[rows, n, vocabulary]` in nats of the token after each of a row's last `n` tokens."""
        input_ids, mask = (x.to(self.device) for x in _left_padded(rows, self.stop_ids[0]))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            output = self.model(input_ids, attention_mask=mask, position_ids=positions, logits_to_keep=n)
        return output.logits.float().log_softmax(-1)


def _batches(
    rows: Sequence[tuple[int, ...]], read: Mapping[tuple[int, ...], int], most: int
) -> Iterator[list[tuple[int, ...]]]:
    """Yield batches of at most `most` rows and `MAX_POSITIONS` positions whose log-probs are read.

    Args:
        rows: Token ids, in ascending order of `read`.
        read: Number of positions to read of each row.
        most: Rows of a batch.
    """
    batch: list[tuple[int, ...]] = []
    for row in rows:
        if batch and (len(batch) == most or (len(batch) + 1) * read[row] > MAX_POSITIONS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _left_padded(prompts: Sequence[TokenIds], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids `[prompts, longest]` and their attention mask."""
    width = max(map(len, prompts))
    input_ids = torch.tensor([[padding] * (width - len(p)) + [*p] for p in prompts], dtype=torch.long)
    return input_ids, torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])


def refuse_long_prompts(model: Any, prompts: Sequence[TokenIds], max_tokens: int) -> None:
    """Refuse prompts with completions longer than the length up to which a row does not depend on its batch.

    Raises:
        ModelError: A prompt is too long; see `refuse_long_rows`.
    """
    n_prompt = max(map(len, prompts), default=0)
    refuse_long_rows(model, n_prompt + max_tokens, f"a prompt of {n_prompt} tokens with {max_tokens} to write")


def continue_prompts(
    model: Any,
    prompts: Sequence[TokenIds],
    sampling: SamplingParameters,
    stop_ids: Sequence[int],
    draws: torch.Tensor | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> list[list[int]]:
    """Return one continuation of each prompt as token ids, padded at the end with `stop_ids[0]`.

    Args:
        model: A causal LM of transformers, in evaluation mode; its generation config is left as it was.
        prompts: Token ids.
        sampling: How to sample; `n` and `seed` are not used.
        stop_ids: Tokens that end a response.
        draws: `[prompts, max_tokens]` uniform numbers in [0, 1), each of which decides a token. With them, the sample
            of a prompt does not depend on the other prompts. None samples with torch's own generator.
        tokenizer: Decodes the tokens; needed only where `sampling` has stop texts.

    Raises:
        ModelError: A prompt with its continuation may be longer than the model's rotary embedding allows.
    """
    from transformers import GenerationConfig, StoppingCriteriaList

    refuse_long_prompts(model, prompts, sampling.max_tokens)
    padding, device = stop_ids[0], model.device
    input_ids, mask = (x.to(device) for x in _left_padded(prompts, padding))
    processors = _processors(sampling, input_ids, mask)
    if not sampling.greedy and draws is not None:
        processors.append(_InverseSampling(draws.to(device), start=input_ids.shape[1]))
    criteria = StoppingCriteriaList()
    if sampling.stop:
        assert tokenizer is not None
        criteria.append(_StopTexts(tokenizer, sampling.stop, start=input_ids.shape[1]))
    sampled = not sampling.greedy and draws is None
    config = GenerationConfig(
        do_sample=sampled,
        max_new_tokens=sampling.max_tokens,
        eos_token_id=list(stop_ids),
        pad_token_id=padding,
        **({"temperature": 1.0, "top_p": 1.0, "top_k": 0} if sampled else {}),  # `_processors` apply them
    )
    own = model.generation_config
    model.generation_config = config  # else transformers fills open settings from the model's own
    try:
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=criteria,
        )
    finally:
        model.generation_config = own
    return output[:, input_ids.shape[1] :].tolist()


def _processors(sampling: SamplingParameters, input_ids: torch.Tensor, mask: torch.Tensor) -> "LogitsProcessorList":
    """Return transformers' processors in vLLM's order: min_p comes before top_k and top_p, unlike in transformers."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors: list[Any] = []
    if sampling.repetition_penalty != 1.0:
        processors.append(_RepetitionPenalty(sampling.repetition_penalty, input_ids, mask))
    if not sampling.greedy:
        if sampling.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.min_p > 0.0:
            processors.append(MinPLogitsWarper(sampling.min_p))
        if sampling.top_k > 0:
            processors.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            processors.append(TopPLogitsWarper(sampling.top_p))
    return LogitsProcessorList(processors)


class _RepetitionPenalty:
    """transformers' repetition penalty, without the penalty on padding."""

    def __init__(self, penalty: float, prompts: torch.Tensor, mask: torch.Tensor) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        self.penalise: Any = RepetitionPenaltyLogitsProcessor(penalty)
        self.prompts = torch.where(mask.bool(), prompts, prompts[:, -1:])  # the last token is never padding

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        written = input_ids[:, self.prompts.shape[1] :]
        return self.penalise(torch.cat([self.prompts, written], dim=1), scores)


class _InverseSampling:
    """A logits processor that leaves one token: the one at which the cumulative distribution passes a given number."""

    def __init__(self, draws: torch.Tensor, start: int) -> None:
        self.draws, self.start = draws, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        cumulative = scores.double().softmax(-1).cumsum(-1)
        draws = self.draws[:, input_ids.shape[1] - self.start, None].double() * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, draws, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


class _StopTexts:
    """A stopping criterion: the text of the response, without its prompt, contains a stop text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        self.ended: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for row, ids in enumerate(input_ids[:, self.start :].tolist()):
            if row not in self.ended:
                self.ended |= {row} if find_stop_text(decode_ids(self.tokenizer, ids), self.stop) else set()
        return torch.tensor([row in self.ended for row in range(len(input_ids))], device=input_ids.device)
