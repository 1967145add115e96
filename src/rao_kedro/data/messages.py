"""Reads messages as data sets write them: chats, chats as JSON, transcripts, plain texts, lists of content parts.

Knows nothing about formats and ratings.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from rao_kedro.data.fields import Row, as_list, find_first, is_filled, is_list, parse
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow

Message = dict[str, str]

DIFFERENT = "the responses differ before their last message"

ROLES = {
    "system": "system",
    "developer": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatbot", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "function_call", "tool_response"), "tool"),
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value", "text")
_TEXT_PARTS = {None, "text", "input_text", "output_text"}
# A message with one of these fields is more than its text. All other fields beside role and content are dropped.
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_OTHER_CONTENT = ("images", "image", "audio", "video", "videos", "reasoning_content", "reasoning", "thinking")

# Anthropic's transcripts have blank lines before a speaker, some copies only line breaks.
_HH_TURN, _LINE_TURN = re.compile(r"\n\n(Human|Assistant):"), re.compile(r"\n(Human|Assistant):")
_NEMO_TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")
# The beginning of a chat that was written into a text; it may not parse (numpy writes lists without commas).
_LOOKS_LIKE_A_CHAT = re.compile(
    r"\s*\[?\s*\{\s*(?:['\"](?:content|value|text)['\"]\s*:.*?,\s*)?['\"](?:role|from)['\"]\s*:\s*['\"](\w+)['\"]", re.S
)
# The beginning, and for some templates the end, of a prompt to which a chat template was applied.
RENDERED = re.compile(
    r"\s*(?:<\|im_start\|>\s*(?:system|user|assistant)\b|<s>\s*\[INST\]|<\|prompter\|>"
    r"|(?:.*\n)?### (?:Human|Instruction):.*\n### (?:Assistant|Response):\s*$)",
    re.DOTALL,
)
# Letters and symbols without a glyph; other invisible characters are found by their Unicode category.
_BLANKS = {"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u2800", "\u3164", "\uffa0"}
_VARIATION_SELECTORS = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_INVISIBLE = {"Cc", "Cf", "Cn", "Cs", "Zl", "Zp", "Zs"}


def read_dialogue(value: Any, name: str) -> list[Message]:
    """Read a prompt or a whole dialogue: a chat, one message, JSON of either, a transcript, or the user's text.

    Args:
        value: The field's value.
        name: The field's name, for errors.

    Raises:
        UnusableRow: It is none of these, or it has content that is not text or an unknown role.
    """
    if not isinstance(value, str):
        return _chat(value, name)
    if (messages := _written_chat(value, name)) is None:
        return [{"role": "user", "content": read_text(value, name)}]
    if messages[-1] == {"role": "assistant", "content": ""}:  # a transcript that ends before the response
        return messages[:-1]
    return messages


def read_completion(value: Any, name: str) -> list[Message]:
    """Read a response: messages that end with the assistant's, in any form of `read_dialogue`, or the text alone.

    Raises:
        UnusableRow: As `read_dialogue`, or the last message is not the assistant's.
    """
    if isinstance(value, str):
        messages = _written_chat(value, name) or [{"role": "assistant", "content": read_text(value, name)}]
    elif value is None:
        raise UnusableRow(QuarantineReason.EMPTY_RESPONSE, f"{name} is null")
    else:
        messages = _chat(value, name)
    if (role := messages[-1]["role"]) != "assistant":
        detail = f"the last message of {name} is of role {role}, not the assistant's"
        raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)
    if len(messages) > 1 and messages[-2]["role"] == "assistant":
        raise UnusableRow(QuarantineReason.BAD_DIALOGUE, f"{name} ends with two consecutive messages of the assistant")
    return messages


def is_chat(value: Any) -> bool:
    """Return whether a value is one message, or a list of messages."""
    if isinstance(value, Mapping):
        return find_first(value, _ROLE_KEYS) is not None
    return is_list(value) and len(value) > 0 and all(isinstance(m, Mapping) and is_chat(m) for m in value)


def is_transcript(value: Any) -> bool:
    """Return whether a value is a text that begins like one of Anthropic's transcripts."""
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def read_history(value: Any) -> list[Message]:
    """Read the turns before the prompt: messages, or LLaMA-Factory's pairs of a user's and an assistant's text.

    Raises:
        UnusableRow: They are neither.
    """
    turns = as_list(value, "history")
    if is_chat(turns):
        return _chat(turns, "history")
    if not all(is_list(turn) and len(turn) == 2 for turn in turns):
        detail = "history is neither a list of messages nor of pairs of texts; `columns: {history: null}` leaves it out"
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    roles = ("user", "assistant")
    return [
        {"role": role, "content": read_text(text, "history")}
        for turn in turns
        for role, text in zip(roles, turn, strict=True)
    ]


def add_system(row: Row, messages: list[Message]) -> list[Message]:
    """Return the messages with the row's `system` or `system_prompt` as their system message.

    Raises:
        UnusableRow: The column is not text, or the messages have a different system message.
    """
    system = next((row[name] for name in ("system", "system_prompt") if row.get(name) not in (None, "")), None)
    if system is None:
        return messages
    if not isinstance(system, str):
        detail = "column system is not a text; `columns: {system: null}` leaves it out"
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"].strip() != system.strip():
            detail = "column system differs from the system message of the prompt"
            raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)
        return messages
    return [{"role": "system", "content": read_text(system, "system")}, *messages]


def shared_context(contexts: Sequence[list[Message]]) -> list[Message]:
    """Return what dialogues share before they part: all of it if they are equal, else up to a message of the user.

    Args:
        contexts: The messages of each completion before its last one.

    Raises:
        UnusableRow: They part in a message of the user, so that they are no responses to one prompt.
    """
    first = contexts[0] if contexts else []
    if all(_same(other, first) for other in contexts):
        return first
    n = next(n for n, messages in enumerate(zip_longest(*contexts)) if not _same_message(messages))
    while n and first[n - 1]["role"] != "user":
        n -= 1
    for turns in (context[n:] for context in contexts):
        roles = [message["role"] for message in turns]
        if roles != ["assistant", "user"] * (len(turns) // 2):
            raise UnusableRow(QuarantineReason.DIFFERENT_PROMPTS, DIFFERENT)
    return first[:n]


def join_context(prompt: list[Message] | None, context: list[Message]) -> list[Message]:
    """Return the whole prompt. Completions may repeat the prompt, or continue it with turns that they share.

    Args:
        prompt: The explicit prompt, if there is one.
        context: The messages that all completions share before their responses.

    Raises:
        UnusableRow: The completions begin with another prompt.
    """
    if not prompt or not context:
        return prompt or context
    asked, repeated = without_system(prompt), without_system(context)
    system = [*prompt[: len(prompt) - len(asked)], *context[: len(context) - len(repeated)]]
    one_system = all(_same(system[:1], [other]) for other in system)  # none, one, or the same twice
    if one_system and any(_same(repeated[i : i + len(asked)], asked) for i in range(len(repeated))):
        return [*system[:1], *repeated]
    if prompt[-1]["role"] == "user" and context[0]["role"] == "assistant":
        return [*prompt, *context]
    detail = "the responses are whole dialogues, in which the row's own prompt does not occur"
    raise UnusableRow(QuarantineReason.DIFFERENT_PROMPTS, detail)


def check_prompt(messages: Sequence[Message]) -> None:
    """Check that a prompt is a dialogue: perhaps a system message, then user and assistant in turn, the user last.

    Raises:
        UnusableRow: It is not; the detail lists its roles.
    """
    if not messages or not is_visible(messages[-1]["content"]):
        raise UnusableRow(QuarantineReason.EMPTY_PROMPT, "the prompt has no text")
    if any(message["role"] == "user" and RENDERED.match(message["content"]) for message in messages):
        detail = "a chat template was already applied to the prompt: give messages, or the plain text of the user"
        raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)
    roles = [message["role"] for message in without_system(messages)]
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
    if roles == expected and roles[-1:] == ["user"]:
        return
    detail = f"the prompt is not a dialogue that the user begins and ends: {', '.join(roles) or 'only system'}"
    raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)


def is_visible(text: str) -> bool:
    """Return whether a text has a visible character: neither a blank nor a control nor of zero width."""
    shown = _VARIATION_SELECTORS.sub("", text)
    return any(unicodedata.category(c) not in _INVISIBLE and c not in _BLANKS for c in shown)


def read_text(value: Any, name: str) -> str:
    """Return a text that can be written as UTF-8.

    Raises:
        UnusableRow: The value is not a text, or the text has a lone surrogate or undecodable bytes.
    """
    if not isinstance(value, str):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is not a text but {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            detail = f"{name} has a lone surrogate or a byte that is not UTF-8 at character {error.start}"
            raise UnusableRow(QuarantineReason.INVALID_TEXT, detail) from error
    return value


def _written_chat(text: str, name: str) -> list[Message] | None:
    """Return the messages of a text that is a chat in JSON or in Python's notation, or a transcript; else None."""
    if (found := _LOOKS_LIKE_A_CHAT.match(text)) and found[1].lower() in ROLES:
        value = parse(text)
        if is_chat(value):
            return _chat(value, name)
        if value is None:
            detail = f"{name} looks like a chat that was written as text, but cannot be read as JSON: write it as JSON"
            raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    return _transcript(text, name)


def _transcript(text: str, name: str) -> list[Message] | None:
    """Return the turns of a transcript in the form of Anthropic (Human, Assistant) or NeMo (extra_id_1); else None."""
    if "<extra_id_1>" in text:
        first, *parts = _NEMO_TURN.split(text)
        parts = ["User", first, *parts] if parts and first.strip() else parts
    elif is_transcript(text):
        parts = _HH_TURN.split("\n\n" + text.lstrip())[1:]
        if len(parts) == 2 and not text.startswith("\n\n"):  # one speaker and no blank line before it: it may be prose
            parts = _LINE_TURN.split("\n" + text.lstrip())[1:] if text.rstrip().endswith("\nAssistant:") else []
    else:
        return None
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": ROLES[who.lower()], "content": read_text(said.strip(), name)} for who, said in turns] or None


def _chat(value: Any, name: str) -> list[Message]:
    messages = [value] if isinstance(value, Mapping) else list(value) if is_list(value) else []
    if not is_chat(messages):
        detail = f"{name} is neither a text nor a list of messages with role and content"
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    read = [message for raw in messages if (message := _message(raw, name)) is not None]
    if not read:
        raise UnusableRow(QuarantineReason.EMPTY_PROMPT, f"{name} has no message with content")
    return read


def _message(message: Row, name: str) -> Message | None:
    """Read a message; None for a system message without content."""
    said = str(find_first(message, _ROLE_KEYS))
    if (role := ROLES.get(said.strip().lower())) is None:
        detail = f"{name} has a message of the unknown role {said!r}; known are {', '.join(ROLES)}"
        raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)
    calls = [key for key in _CALLS if is_filled(message.get(key))]
    if calls or role == "tool":
        detail = f"{name} has {calls[0] if calls else f'a message of role {said}'}: tool calls are not supported"
        raise UnusableRow(QuarantineReason.TOOL_CALL, detail)
    if other := [key for key in _OTHER_CONTENT if is_filled(message.get(key))]:
        raise UnusableRow(QuarantineReason.NOT_TEXT, f"{name} has a message with {other[0]}, which is not supported")
    content = find_first(message, _CONTENT_KEYS)
    if content is None:
        if role == "system":
            return None
        reason = QuarantineReason.EMPTY_RESPONSE if role == "assistant" else QuarantineReason.EMPTY_PROMPT
        raise UnusableRow(reason, f"{name} has a message of the {role} without content")
    return {"role": role, "content": _content(content, name)}


def _content(content: Any, name: str) -> str:
    """Return a message's text; the texts of a list of parts are joined."""
    if isinstance(content, str):
        return read_text(content, name)
    texts = []
    for part in [content] if isinstance(content, Mapping) else as_list(content, f"the content of a message of {name}"):
        if isinstance(part, Mapping):
            if (kind := part.get("type")) not in _TEXT_PARTS or not isinstance(part.get("text"), str):
                raise UnusableRow(QuarantineReason.NOT_TEXT, f"{name} has a part of type {kind}; only text is read")
            part = part["text"]
        texts.append(read_text(part, name))
    return "".join(texts)


def _same(a: Sequence[Message], b: Sequence[Message]) -> bool:
    return len(a) == len(b) and all(map(_same_message, zip(a, b, strict=True)))


def _same_message(messages: Sequence[Message | None]) -> bool:
    return len({None if m is None else (m["role"], m["content"].strip()) for m in messages}) == 1


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return the messages after the system message, if there is one."""
    return list(messages[1:] if messages and messages[0]["role"] == "system" else messages)
