"""Tokenises rendered chats so that only the chat template writes control tokens.

A user's text may spell a control token (`<|im_end|>`), and must stay text. While the template runs, a character of
Unicode's private use area replaces the spelling; afterwards the spelling is tokenised as text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import ChatFormat

Message = Mapping[str, str]

_PRIVATE_USE = range(0xE000, 0xF900)  # characters to which Unicode gives no meaning
_BEFORE = ("\n", "a", "0", "~")  # a piece is tokenised after one of these if the tokenizer puts a space before texts


def shield(chat: ChatFormat, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
    """Replace every spelling of a control token by a private character.

    Returns:
        The messages, and the spelling that each private character replaces.

    Raises:
        ModelError: The texts use nearly all private characters themselves.
    """
    texts = [text for message in messages for text in message.values() if isinstance(text, str)]
    texts = [text for text in texts if any(beginning in text for beginning in chat.control_beginnings)]
    spelled = [token for token in chat.control_tokens if any(token in text for text in texts)]
    if not spelled:
        return list(messages), {}
    used = [text for message in messages for text in message.values() if isinstance(text, str)]
    marks = dict(zip(unused_characters(used, len(spelled)), spelled, strict=True))

    def shielded(text: Any) -> Any:
        for mark, token in marks.items():
            text = text.replace(token, mark) if isinstance(text, str) else text
        return text

    return [{key: shielded(text) for key, text in message.items()} for message in messages], marks


def unused_characters(texts: Sequence[str], n: int) -> list[str]:
    """Return `n` private characters that no text uses.

    Raises:
        ModelError: There are fewer than `n`.
    """
    used = set().union(*texts)
    unused = [character for character in map(chr, _PRIVATE_USE) if character not in used][:n]
    if len(unused) < n:
        raise ModelError(f"the texts spell {n} control tokens and leave no private character to stand for them")
    return unused


def spell_out(text: str, marks: Mapping[str, str]) -> str:
    """Return a text in which each private character is replaced by the spelling that it stands for."""
    return "".join(marks.get(character, character) for character in text)


def encode(chat: ChatFormat, text: str, marks: Mapping[str, str]) -> list[int]:
    """Return the ids of a rendered chat; a private character becomes the ids of the spelling that it replaces.

    Args:
        chat: The model's chat format.
        text: The rendered chat, from shielded messages.
        marks: The spelling that each private character replaces.

    Raises:
        ModelError: A token is beyond the model's embeddings, or the text cannot be tokenised.
    """
    pieces = re.split(f"([{''.join(marks)}])", text) if marks else [text]
    ids: list[int] = []
    for piece in pieces:
        text_ids = _ids_without_prefix if ids and chat.adds_prefix else ChatFormat.text_ids
        ids += _spelling_ids(chat, marks[piece], text_ids) if piece in marks else text_ids(chat, piece)
    refuse_unknown(chat, ids)
    return ids


def refuse_unknown(chat: ChatFormat, ids: Sequence[int]) -> None:
    """Refuse tokens that the model does not know.

    Raises:
        ModelError: A token is beyond the model's embeddings.
    """
    if chat.n_embeddings is not None and ids and max(ids) >= chat.n_embeddings:
        token = chat.tokenizer.convert_ids_to_tokens(max(ids))
        raise ModelError(
            f"token {max(ids)} ({token!r}) is beyond the model's {chat.n_embeddings} embeddings: the tokenizer has "
            "tokens that the model does not know"
        )


def _ids_without_prefix(chat: ChatFormat, text: str, **options: Any) -> list[int]:
    """Return the ids of a text as a continuation: without the space that the tokenizer puts before a text."""
    for before in _BEFORE:
        start = chat.text_ids(before, **options)
        ids = chat.text_ids(before + text, **options)
        if ids[: len(start)] == start:
            return ids[len(start) :]
    raise ModelError(f"the tokenizer adds a space before {text[:40]!r}, which follows a spelled control token")


def _spelling_ids(chat: ChatFormat, token: str, text_ids: Callable[..., list[int]]) -> list[int]:
    """Return the ids of a control token's spelling as text."""
    ids = text_ids(chat, token, split_special_tokens=True)
    if set(ids) & set(chat.control_tokens.values()):  # an ordinary token that ends turns is not split
        first, rest = token[0], token[1:]
        behind = _ids_without_prefix if chat.adds_prefix else ChatFormat.text_ids
        return [*text_ids(chat, first), *(i for character in rest for i in behind(chat, character))]
    return ids
