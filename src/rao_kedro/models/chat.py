"""Chat templates and t_0: from messages to token ids. Knows nothing about models' weights or about training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.errors import ModelError
from rao_kedro.models.templates import with_fixed_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]


def load_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer that can format a chat; a template that prints the date prints the same one every day.

    Raises:
        ModelError: The directory has no tokenizer or no chat template; says what to add.
    """
    tokenizer = open_tokenizer(model_dir)
    tokenizer.chat_template = with_fixed_date(tokenizer.chat_template, model_dir)
    return tokenizer


def open_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer as it is.

    Raises:
        ModelError: The directory has no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model_dir), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer could be loaded from {model_dir}: save one there with tokenizer.save_pretrained ({error})"
        ) from error


def prompt_token_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """Return the ids of a prompt with its generation header; the template itself adds BOS where there is one."""
    return list(tokenizer(_render(tokenizer, messages, generation_header=True), add_special_tokens=False)["input_ids"])


def response_token_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], response: str) -> list[int]:
    """Return the ids of a response up to and including its end-of-turn token.

    Raises:
        ModelError: The prompt's tokens are not a prefix of the whole dialogue's tokens, so that log-probs of the
            response given the prompt would not be well defined.
    """
    prompt = _render(tokenizer, messages, generation_header=True)
    whole = _render(tokenizer, [*messages, {"role": "assistant", "content": response}], generation_header=False)
    if not whole.startswith(prompt):
        raise ModelError("the chat template renders the prompt differently once the response is there")
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole_ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    if whole_ids[: len(prompt_ids)] != prompt_ids:
        raise ModelError("the prompt's tokens are not a prefix of the tokens of prompt and response")
    ids = list(whole_ids[len(prompt_ids) :])
    if tokenizer.eos_token_id in ids:  # a template may end the turn with more than the end-of-turn token ("\n")
        last = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id)
        return ids[: last + 1]
    return [*ids, tokenizer.eos_token_id]


def _render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], generation_header: bool) -> str:
    return str(
        tokenizer.apply_chat_template([*map(dict, messages)], tokenize=False, add_generation_prompt=generation_header)
    )


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest token prefix that all sequences share: the longest possible t_0."""
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return list(first[:length])
