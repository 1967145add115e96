"""Chat templates and t_0: from messages to token ids. Knows nothing about models' weights or about training.

A response's tokens end with the token at which generation stops, if and only if the response is finished. A text that
spells a control token (`<|im_end|>`) stays text: only the template writes control tokens.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError
from rao_kedro.models.templates import refuse_unread, with_fixed_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

_PRIVATE_USE = range(0xE000, 0xF900)  # characters without a meaning, which stand for something while a template runs
_BEFORE = ("\n", "a", "0", "~")  # what a text is tokenised behind where a tokenizer puts a space before texts


@dataclass(frozen=True)
class ChatFormat:
    """How a model writes a chat.

    Attributes:
        tokenizer: With a chat template.
        end_of_turn_ids: Tokens at which generation stops, ascending; at least one.
        n_embeddings: Token ids that the model has embeddings for; None where its configuration does not say.
        template_kwargs: Variables that the chat template reads, beside the messages.
    """

    tokenizer: "PreTrainedTokenizerBase"
    end_of_turn_ids: tuple[int, ...]
    n_embeddings: int | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Spellings and ids of the tokens that only a template writes, the longest first.

        These are special tokens and those that end a turn. Tokens that a tokenizer adds as ordinary ones (Qwen's
        `<think>`) belong to texts.
        """
        added = self.tokenizer.added_tokens_decoder
        control = {t.content: i for i, t in added.items() if t.special or i in self.end_of_turn_ids}
        return {text: control[text] for text in sorted(control, key=len, reverse=True)}

    @cached_property
    def adds_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text (Metaspace), so that parts of a text have other tokens."""
        return _text_ids(self, "\na") != _text_ids(self, "\n") + _text_ids(self, "a")

    @property
    def final_id(self) -> int:
        """The token that ends a response where the template itself writes none: the tokenizer's EOS if it has one."""
        eos: Any = self.tokenizer.eos_token_id
        return self.end_of_turn_ids[0] if eos is None else int(eos)


def load_chat_format(model_dir: str | Path, template_kwargs: Mapping[str, Any] | None = None) -> ChatFormat:
    """Load how the model of a checkpoint writes a chat.

    Args:
        model_dir: A checkpoint directory with its tokenizer.
        template_kwargs: Variables that the chat template reads, beside the messages.

    Raises:
        ModelError: The directory has no tokenizer, no chat template or no end-of-turn token; says what to add.
        ParameterError: The chat template does not read one of the variables.
    """
    tokenizer = load_tokenizer(model_dir)
    refuse_unread(template_kwargs or {}, tokenizer, model_dir)
    config = _read_json(Path(model_dir) / "config.json")
    n_embeddings = (config.get("text_config") or config).get("vocab_size")
    ends = tuple(end_of_turn_ids(model_dir, tokenizer))
    return ChatFormat(tokenizer, ends, n_embeddings, template_kwargs or {})


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


def end_of_turn_ids(model_dir: str | Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the ids that end a response, ascending: in generation, and so in training.

    They are those of the checkpoint's generation_config.json (without one, of its config.json), and the tokenizer's
    EOS.

    Raises:
        ModelError: There are none.
    """
    directory = Path(model_dir)
    generation = directory / "generation_config.json"
    found = _read_json(generation if generation.exists() else directory / "config.json").get("eos_token_id")
    ids = {tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])} - {None}
    if not ids:
        raise ModelError(f"{model_dir} names no end-of-turn token: set eos_token_id in its generation_config.json")
    return sorted(ids)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def prompt_token_ids(chat: ChatFormat, messages: Sequence[Message], every_message: bool = False) -> list[int]:
    """Return the ids of a prompt with its generation header; the template itself adds BOS where there is one.

    Args:
        chat: How the model writes a chat.
        messages: The prompt.
        every_message: Whether it is an error if the template leaves a message out or changes it, but for white space
            around it and the reasoning of an earlier turn.

    Raises:
        ModelError: The template refuses the messages, or they cannot be tokenised.
    """
    shielded, marks = _shield(chat, messages)
    prompt = _render(chat, shielded, generation_header=True)
    if every_message:
        _check_all_written(shielded, prompt)
    return _encode(chat, prompt, marks)


def response_token_ids(
    chat: ChatFormat, messages: Sequence[Message], response: str, finished: bool = True
) -> list[int]:
    """Return the ids of a response; there is always at least one.

    Args:
        chat: How the model writes a chat.
        messages: The prompt.
        response: The text.
        finished: A finished response ends with the first end-of-turn token that the template writes behind it; what
            the template writes after that is dropped. Where it writes none, the tokenizer's EOS follows the text.
            A response that was cut ends with its text. An empty one is its end-of-turn token, so that it is not
            without tokens.

    Raises:
        ModelError: The template refuses the messages, they cannot be tokenised, the template changes more of the
            response than white space around it, or the prompt's tokens are not a prefix of the whole dialogue's
            tokens, so that log-probs of the response given the prompt would not be well defined.
    """
    shielded, marks = _shield(chat, [*messages, {"role": "assistant", "content": response}])
    prompt = _render(chat, shielded[:-1], generation_header=True)
    prompt_ids = _encode(chat, prompt, marks)
    whole = _render(chat, shielded, generation_header=False)
    ids = _ids_behind(chat, prompt, prompt_ids, whole, marks)
    text = list(takewhile(lambda token: token not in chat.end_of_turn_ids, ids))
    content = shielded[-1]["content"].strip()
    if finished and len(text) < len(ids):
        written = _before_end_of_turn(chat, whole[len(prompt) :]).strip()
        if written != content and written.startswith(content):  # does what follows belong to the turn, or to the text?
            written = _up_to_text_end(chat, shielded, whole, finished)[len(prompt) :]
        _check_unchanged(written, content, marks)
        return ids[: len(text) + 1]
    up_to_end = _up_to_text_end(chat, shielded, whole, finished)
    own = _ids_behind(chat, prompt, prompt_ids, up_to_end, marks)
    _check_unchanged(up_to_end[len(prompt) :], content, marks)
    return [*own, chat.final_id] if finished or not own else own


def dialogue_token_ids(
    chat: ChatFormat, messages: Sequence[Message], response: str, finished: bool = True
) -> list[int]:
    """Return the ids of a whole dialogue, to the end of what the template writes behind the response.

    As `apply_chat_template(dialogue)` tokenises it, which is what model cards of classifiers do: without a generation
    header, and with BOS only where the template has it.

    Args:
        chat: How the model writes a chat.
        messages: The dialogue up to the last message of the user.
        response: The text.
        finished: False for a response that was cut: its own last token is the last one.

    Raises:
        ModelError: The template refuses the messages, or they cannot be tokenised.
    """
    shielded, marks = _shield(chat, [*messages, {"role": "assistant", "content": response}])
    whole = _render(chat, shielded, generation_header=False)
    return _encode(chat, whole if finished else _up_to_text_end(chat, shielded, whole, finished), marks)


def _ids_behind(
    chat: ChatFormat, prompt: str, prompt_ids: list[int], whole: str, marks: Mapping[str, str]
) -> list[int]:
    if not whole.startswith(prompt):
        raise ModelError("the chat template renders the prompt differently once the response is there")
    ids = _encode(chat, whole, marks)
    if ids[: len(prompt_ids)] != prompt_ids:
        raise ModelError("the prompt's tokens are not a prefix of the tokens of prompt and response")
    return ids[len(prompt_ids) :]


def _check_all_written(messages: Sequence[Message], prompt: str) -> None:
    """Look for every message, the longest first, where none of the others is: one can be a part of another."""
    for message in sorted(messages, key=lambda message: len(message["content"].strip()), reverse=True):
        text = message["content"].strip()
        if text not in prompt and message["role"] == "assistant":
            text = text.rpartition("</think>")[2].strip()  # templates drop the reasoning of earlier turns
        if text not in prompt:
            raise ModelError(
                f"the chat template does not write the message of the role {message['role']} as it is; use a template "
                "that does (model.chat_template)"
            )
        prompt = prompt.replace(text, "\0", 1) if text else prompt


def _before_end_of_turn(chat: ChatFormat, text: str) -> str:
    ends = [text.find(token) for token, id_ in chat.control_tokens.items() if id_ in chat.end_of_turn_ids]
    return text[: min((end for end in ends if end >= 0), default=None)]


def _check_unchanged(written: str, content: str, marks: Mapping[str, str]) -> None:
    written = written.strip()
    if written != content:
        n = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(written, content, strict=False))))
        instead, own = (_spelled(text[n : n + 40], marks) for text in (written, content))
        raise ModelError(
            f"the chat template changes the text of the response: it writes {instead!r} in place of {own!r}"
        )


def _spelled(text: str, marks: Mapping[str, str]) -> str:
    return "".join(marks.get(character, character) for character in text)


def _up_to_text_end(chat: ChatFormat, messages: Sequence[Message], whole: str, finished: bool) -> str:
    """Return a rendered dialogue without what the template writes behind the last message's text."""
    *before, last = messages
    (mark,) = _unused_characters([str(chat.tokenizer.chat_template), whole], 1)
    marked = _render(chat, [*before, {**last, "content": last["content"] + mark}], generation_header=False)
    if mark not in marked:
        raise ModelError("the chat template does not write the text of the response")
    text = marked[: marked.index(mark)]
    # Templates that trim a text do so for one that is complete, too; of one that was cut, a space at its end is real.
    return text if not finished or whole.startswith(text) else text.rstrip()


def _shield(chat: ChatFormat, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
    """Put private characters where texts spell control tokens.

    Returns:
        The messages, and what each private character stands for.
    """
    texts = [text for message in messages for text in message.values() if isinstance(text, str)]
    spelled = [token for token in chat.control_tokens if any(token in text for text in texts)]
    if not spelled:
        return list(messages), {}
    marks = dict(zip(_unused_characters(texts, len(spelled)), spelled, strict=True))

    def shielded(text: Any) -> Any:
        for mark, token in marks.items():
            text = text.replace(token, mark) if isinstance(text, str) else text
        return text

    return [{key: shielded(text) for key, text in message.items()} for message in messages], marks


def _unused_characters(texts: Sequence[str], n: int) -> list[str]:
    used = set().union(*texts)
    unused = [character for character in map(chr, _PRIVATE_USE) if character not in used][:n]
    if len(unused) < n:
        raise ModelError(f"the texts spell {n} control tokens and leave no private character to stand for them")
    return unused


def _render(chat: ChatFormat, messages: Sequence[Message], generation_header: bool) -> str:
    try:
        return str(
            chat.tokenizer.apply_chat_template(
                [*map(dict, messages)],
                tokenize=False,
                add_generation_prompt=generation_header,
                **chat.template_kwargs,
            )
        )
    except Exception as error:  # a template is a program of somebody else's, and may raise anything
        raise ModelError(f"the chat template refuses these messages: {type(error).__name__}: {error}") from error


def _encode(chat: ChatFormat, text: str, marks: Mapping[str, str]) -> list[int]:
    """Return the ids of a rendered text; private characters as the text that they stand for."""
    pieces = re.split(f"([{''.join(marks)}])", text) if marks else [text]
    ids: list[int] = []
    for piece in pieces:
        text_ids = _text_ids if not ids or not chat.adds_prefix else _ids_without_prefix
        ids += _spelling_ids(chat, marks[piece], text_ids) if piece in marks else text_ids(chat, piece)
    if chat.n_embeddings is not None and ids and max(ids) >= chat.n_embeddings:
        token = chat.tokenizer.convert_ids_to_tokens(max(ids))
        raise ModelError(
            f"token {max(ids)} ({token!r}) is beyond the model's {chat.n_embeddings} embeddings: its tokenizer has "
            "tokens that it does not know"
        )
    return ids


def _text_ids(chat: ChatFormat, text: str, **options: Any) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"the text is no valid Unicode: {error}") from error
    return list(chat.tokenizer(text, add_special_tokens=False, **options)["input_ids"]) if text else []


def _ids_without_prefix(chat: ChatFormat, text: str, **options: Any) -> list[int]:
    """Return the ids of a text as they are behind another one: without the space that stands for a text's begin."""
    for before in _BEFORE:
        start = _text_ids(chat, before, **options)
        ids = _text_ids(chat, before + text, **options)
        if ids[: len(start)] == start:
            return ids[len(start) :]
    raise ModelError(f"the tokenizer adds a space before {text[:40]!r}, which stands behind a spelled control token")


def _spelling_ids(chat: ChatFormat, token: str, text_ids: Callable[..., list[int]]) -> list[int]:
    """Return the ids of a control token's spelling as text."""
    ids = text_ids(chat, token, split_special_tokens=True)
    if set(ids) & set(chat.control_tokens.values()):  # an ordinary token that ends turns is not split
        first, rest = token[0], token[1:]
        behind = _ids_without_prefix if chat.adds_prefix else _text_ids
        return [*text_ids(chat, first), *(i for character in rest for i in behind(chat, character))]
    return ids


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest token prefix that all sequences share: the longest possible t_0."""
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return list(first[:length])
