"""Chat templates and t_0: from messages to token ids. Knows nothing about models' weights or about training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]


def load_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer and check that it can format a chat.

    Raises:
        ModelError: The directory has no tokenizer or no chat template; says what to add.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model_dir))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer could be loaded from {model_dir}: save one there with tokenizer.save_pretrained ({error})"
        ) from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer in {model_dir} has no chat template: add a chat_template.jinja beside it, which writes a "
            "dialogue as its model card says, or set tokenizer.chat_template and save it again"
        )
    return tokenizer


def prompt_token_ids(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """Return the ids of a prompt with its generation header; the template itself adds BOS where there is one.

    Raises:
        ModelError: The template refuses the messages, such as a system message.
    """
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


PLACE = "\ue000"  # stands for a response; of Unicode's private use area, so that no template writes it


def dialogue_token_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], response: str, finished: bool = True
) -> list[int]:
    """Return the ids of a whole dialogue, to the end of what the template writes behind the response.

    As `apply_chat_template(dialogue)` tokenises it, which is what model cards of classifiers do: without a generation
    header, and with BOS only where the template has it.

    Args:
        tokenizer: With a chat template.
        messages: The dialogue up to the last message of the user.
        response: The assistant's answer.
        finished: False for a response that was cut: its own last token is the last one.

    Raises:
        ModelError: A response was cut, and the template does not say where it ends.
    """
    whole = _render(tokenizer, [*messages, {"role": "assistant", "content": response}], generation_header=False)
    if not finished:
        empty = _render(tokenizer, [*messages, {"role": "assistant", "content": PLACE}], generation_header=False)
        _, found, behind = empty.rpartition(PLACE)
        if not found or not whole.endswith(behind):
            raise ModelError("the chat template does not write responses as they are, so that a cut one has no end")
        whole = whole.removesuffix(behind)
    return list(tokenizer(whole, add_special_tokens=False)["input_ids"])


def _render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], generation_header: bool) -> str:
    from jinja2 import TemplateError

    dialogue = [*map(dict, messages)]
    try:
        return str(tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=generation_header))
    except TemplateError as error:
        raise ModelError(f"the chat template refuses the messages: {error}") from error


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest token prefix that all sequences share: the longest possible t_0."""
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return list(first[:length])
