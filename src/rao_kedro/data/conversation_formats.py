"""Formats of published conversations: one function per format, from a row to its messages.

Knows nothing about files. To add a format, add a function and an entry of `CONVERSATION_FORMATS`, and its name to
`ConversationFormatName` in `config/data_engineering.py`. `sniff_conversation` knows a format by its columns.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rao_kedro.data.columns import SINGLE
from rao_kedro.data.fields import Row, find_first, is_filled, is_list, require
from rao_kedro.data.messages import (
    Message,
    add_system,
    is_chat,
    is_transcript,
    join_context,
    read_completion,
    read_dialogue,
)
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.raw_groups import read_prompt

TREE_MESSAGES = "tree_messages"  # the only format in which several rows are one conversation
_QUESTIONS = ("prompt", "instruction", "question", "query", "input")
_UNREAD = ("images", "image", "tools", "audio", "videos")


@dataclass
class RawConversation:
    """A conversation as a row has it, before any check.

    Attributes:
        messages: Its messages.
        other_replies: Of a tree: its messages that are not part of the conversation.
    """

    messages: list[Message]
    other_replies: int = 0


def read_messages(row: Row) -> RawConversation:
    """Read a list of role and content, as UltraChat has it; `system` is put before it."""
    return _read_chat(row, "messages")


def read_sharegpt(row: Row) -> RawConversation:
    """Read ShareGPT's conversations: a list of from and value, or of role and content, and perhaps `system`."""
    return _read_chat(row, "conversations")


def read_alpaca(row: Row) -> RawConversation:
    """Read the alpaca layout: instruction, input, output, system, and the earlier turns in `history`."""
    require(row, "instruction")
    return read_prompt_completion(row)


def read_chosen(row: Row) -> RawConversation:
    """Read the chosen response of preference data, with its prompt: a transcript of hh-rlhf, a chat, or texts."""
    chosen = require(row, "chosen")
    if not is_filled(find_first(row, _QUESTIONS)) and (is_transcript(chosen) or is_chat(chosen)):
        return RawConversation(add_system(row, read_dialogue(chosen, "chosen")))
    return _join(row, "chosen")


def read_prompt_completion(row: Row) -> RawConversation:
    """Read a prompt and a completion, response, output or answer, as texts or chats."""
    return _join(row, next((name for name in SINGLE if row.get(name) is not None), SINGLE[0]))


def read_tree(row: Row) -> RawConversation:
    """Read a tree of OpenAssistant: `prompt` is a message, and each message has its `replies`.

    The conversation follows the best reply of each message: the lowest rank, or the first where there are no ranks.
    """
    node, path, n = require(row, "prompt"), [], _count(row["prompt"])
    while node is not None:
        path.append(node)
        node = best_reply(node.get("replies") or [])
    return RawConversation(read_dialogue(path, "prompt"), other_replies=n - len(path))


def best_reply(replies: list[Row]) -> Row | None:
    """Return the best of the replies to a message that were neither deleted nor rejected in review."""
    usable = [reply for reply in replies if not reply.get("deleted") and reply.get("review_result") is not False]
    return min(usable, key=lambda reply: (reply.get("rank") is None, reply.get("rank")), default=None)


def _count(root: Row) -> int:
    found, waiting = 0, [root]
    while waiting:
        found += 1
        waiting += waiting.pop().get("replies") or []
    return found


def _read_chat(row: Row, name: str) -> RawConversation:
    value = require(row, name)
    if is_list(value) and len(value) == 0:
        raise UnusableRow(QuarantineReason.EMPTY_CONVERSATION, f"{name} is an empty list")
    return RawConversation(add_system(row, read_dialogue(value, name)))


def _join(row: Row, name: str) -> RawConversation:
    """Read a completion that is only the answer, or repeats or continues its prompt."""
    prompt = read_prompt(row, _QUESTIONS)
    completion = read_completion(require(row, name), name)
    if prompt is None and len(completion) == 1:
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no prompt: none of the columns {', '.join(_QUESTIONS)}")
    return RawConversation([*add_system(row, join_context(prompt, completion[:-1])), completion[-1]])


# In the order in which they are tried: formats with whole conversations come first.
CONVERSATION_FORMATS: dict[str, Callable[[Row], RawConversation]] = {
    "messages": read_messages,
    "sharegpt": read_sharegpt,
    "tree": read_tree,
    "alpaca": read_alpaca,
    "chosen": read_chosen,
    "prompt_completion": read_prompt_completion,
}


def sniff_conversation(row: Row) -> str:
    """Return the name of a row's format, from its columns that are not null, else from all columns.

    Raises:
        UnusableRow: Its columns fit no format.
    """
    prompt: Any = row.get("prompt")
    for there in ({name for name, value in row.items() if value is not None}, {*row}):
        fits = {
            TREE_MESSAGES: {"message_id", "text", "role"} <= there,
            "tree": hasattr(prompt, "keys") and "replies" in prompt,
            "messages": "messages" in there,
            "sharegpt": "conversations" in there,
            "alpaca": {"instruction", "output"} <= there,
            "prompt_completion": bool(there & {*SINGLE}) and bool(there & {*_QUESTIONS}),
            "chosen": "chosen" in there,
        }
        if found := next((name for name, is_so in fits.items() if is_so), None):
            return found
    raise UnusableRow(
        QuarantineReason.UNKNOWN_FORMAT,
        f"columns {', '.join(sorted(map(str, row)))} fit no known format of conversations: name your columns with "
        f"`columns`, as in `columns: {{messages: dialogue}}`; known are {TREE_MESSAGES}, "
        f"{', '.join(CONVERSATION_FORMATS)}",
    )


def refuse_unlearnable(row: Row) -> None:
    """Refuse a row with content that is not text, and one whose `label` says that it is not desirable.

    Raises:
        UnusableRow: It has such a column; the detail names it.
    """
    if str(row.get("label")).strip().lower() in ("false", "0", "0.0"):
        detail = "column label calls the completion undesirable; `columns: {label: null}` learns it all the same"
        raise UnusableRow(QuarantineReason.UNDESIRABLE, detail)
    for name in _UNREAD:
        if is_filled(value := row.get(name)) and value != "[]":
            detail = f"column {name} is not supported as part of a conversation; `columns: {{{name}: null}}` ignores it"
            raise UnusableRow(QuarantineReason.NOT_TEXT, detail)
