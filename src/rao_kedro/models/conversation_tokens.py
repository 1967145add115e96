"""Turns whole conversations into token ids, and marks those that are learned: what the assistant writes, turn by turn.

What a template writes around the texts depends on their roles alone, so it is rendered once per sequence of roles, with
placeholders for the texts, turn by turn. Each conversation is rendered once, and compared with that. Knows nothing of
weights or training.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import prompt_token_ids, render
from rao_kedro.models.chat_format import ChatFormat
from rao_kedro.models.control_tokens import Message, encode, refuse_unknown, shield, spell_out, unused_characters
from rao_kedro.models.templates import default_template

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChangedTurnError(ModelError):
    """The chat template leaves out or changes a turn."""


@dataclass(frozen=True)
class ConversationTokens:
    """A conversation as tokens, up to the end of its last assistant turn: nothing after it is learned or read.

    Attributes:
        ids: T token ids.
        learned: T values: whether a token is one that the assistant writes, which its end-of-turn tokens are too.
        ends: Per assistant turn, the number of tokens up to its end.
    """

    ids: list[int]
    learned: list[bool]
    ends: list[int]


class ConversationTokenizer:
    """Tokenises conversations in one chat format."""

    def __init__(self, chat: ChatFormat) -> None:
        """Start with no renderings."""
        self.chat = chat
        self._layouts: dict[tuple[str, ...], _Layout | ModelError] = {}

    def tokenize(self, conversation: Sequence[Message]) -> ConversationTokens:
        """Return the tokens of a conversation, of which every assistant turn is learned.

        Args:
            conversation: Messages that end with the assistant's.

        Raises:
            ChangedTurnError: The template leaves out or changes a turn. White space around a turn may change.
            ModelError: The template refuses the messages, renders an earlier turn differently once a later one is
                there, or the tokens of a turn do not begin where its text begins.
        """
        (tokens,) = self.tokenize_batch([conversation])
        if isinstance(tokens, ModelError):
            raise tokens
        return tokens

    def continue_prompt(
        self, prompt: Sequence[Message], turns: Sequence[Message], finished: bool = True
    ) -> tuple[list[int], list[bool]]:
        """Return the tokens of a response of several turns, and whether the assistant writes each of them.

        Args:
            prompt: The dialogue up to the user's message that the response answers.
            turns: The messages of the response, of which the first and the last one are the assistant's.
            finished: Whether the last turn is complete; otherwise its end-of-turn token is left out.

        Raises:
            ModelError: As `tokenize`; or the prompt's tokens are not a prefix of the dialogue's.
        """
        prompt_ids = prompt_token_ids(self.chat, prompt, every_message=True)
        found = self.tokenize([*prompt, *turns])
        n, end = len(prompt_ids), found.ends[-1] if finished else found.ends[-1] - 1
        if found.ids[:n] != prompt_ids:
            raise ModelError(
                "the prompt's tokens are not a prefix of the dialogue's: the chat template writes more before the last "
                "turn than before earlier ones, such as an empty thought"
            )
        return found.ids[n:end], found.learned[n:end]

    def tokenize_batch(self, conversations: Sequence[Sequence[Message]]) -> list[ConversationTokens | ModelError]:
        """Return the tokens of each conversation, or why it has none; see `tokenize`."""
        found: dict[int, ConversationTokens | ModelError] = {}
        written: dict[int, _Written] = {}
        for i, conversation in enumerate(conversations):
            try:
                written[i] = self._write(conversation)
            except ModelError as error:
                found[i] = error
        together = [i for i, of in written.items() if not of.marks and self.chat.tokenizer.is_fast]
        batch: Any = None
        if together:  # one call, so that the tokenizer can use its threads
            texts = [written[i].text for i in together]
            batch = self.chat.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        encodings = dict(zip(together, batch.encodings, strict=True)) if together else {}
        for i, of in written.items():
            try:
                found[i] = self._learn(of, encodings.get(i))
            except ModelError as error:
                found[i] = error
        return [found[i] for i in range(len(conversations))]

    def _write(self, conversation: Sequence[Message]) -> "_Written":
        """Render a conversation, and find its texts in what the template writes."""
        messages, marks = shield(self.chat, conversation)
        layout = self._layout(tuple(message["role"] for message in messages))
        whole = render(self.chat, messages, generation_header=False)
        try:
            whole.encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"the text is not valid Unicode: {error}") from error
        return _Written(whole, marks, layout, layout.find_texts(whole, messages, marks))

    def _layout(self, roles: tuple[str, ...]) -> "_Layout":
        if roles not in self._layouts:
            try:
                self._layouts[roles] = _lay_out(self.chat, roles)
            except ModelError as error:
                self._layouts[roles] = error
        layout = self._layouts[roles]
        if isinstance(layout, ModelError):
            raise layout
        return layout

    def _learn(self, written: "_Written", encoding: Any) -> ConversationTokens:
        """Mark the tokens that are learned.

        Args:
            written: The rendered conversation.
            encoding: Its ids and their places, if the tokenizer tells them.
        """
        chat, ids = self.chat, encoding.ids if encoding is not None else encode(self.chat, written.text, written.marks)
        if encoding is not None:
            refuse_unknown(chat, ids)
        learned, ends = [False] * len(ids), []
        for turn, (begin, end) in zip(written.layout.turns, written.texts, strict=True):
            first = _token_at(chat, written, ids, encoding, begin - turn.lead)
            if turn.ends:  # texts spell no end-of-turn token
                last = next(k for k in range(first, len(ids)) if ids[k] in chat.end_of_turn_ids) + 1
            else:
                last = _token_at(chat, written, ids, encoding, end)
            if last - turn.ends <= first:
                raise ModelError("an assistant turn has no tokens except its end-of-turn token")
            learned[first:last] = [True] * (last - first)
            ends.append(last)
        ids, learned = ids[: ends[-1]], learned[: ends[-1]]
        if not written.layout.turns[-1].ends:
            ids, learned, ends = [*ids, chat.final_id], [*learned, True], [*ends[:-1], ends[-1] + 1]
        return ConversationTokens(ids, learned, ends)


@dataclass(frozen=True)
class _Turn:
    """What a template writes around an assistant turn.

    Attributes:
        lead: Characters before its text that the assistant writes, too: they are not in the generation header.
        ends: Whether an end-of-turn token follows its text.
    """

    lead: int
    ends: bool


@dataclass(frozen=True)
class _Layout:
    """What a template writes around the texts of a sequence of roles.

    Attributes:
        roles: The roles.
        order: The numbers of the messages in the order in which their texts are written.
        between: What is written before the first text, between the texts, and after the last one.
        turns: The assistant turns.
    """

    roles: tuple[str, ...]
    order: tuple[int, ...]
    between: tuple[str, ...]
    turns: tuple[_Turn, ...]

    def find_texts(self, whole: str, messages: Sequence[Message], marks: Mapping[str, str]) -> list[tuple[int, int]]:
        """Return where the texts of the assistant begin and end in a rendered conversation."""
        places: dict[int, tuple[int, int]] = {}
        position = len(self.between[0])
        for number, behind in zip(self.order, self.between[1:], strict=True):
            text = str(messages[number]["content"])
            forms = dict.fromkeys((text, text.strip(), text.lstrip(), text.rstrip()))
            written = next((form for form in forms if whole.startswith(form + behind, position)), None)
            if written is None:
                instead, own = (spell_out(t, marks) for t in (whole[position : position + 40], text.strip()[:40]))
                raise ChangedTurnError(
                    f"the chat template changes message {number + 1}, of the {self.roles[number]}: it writes "
                    f"{instead!r} instead of {own!r}"
                )
            places[number] = position, position + len(written)
            position += len(written) + len(behind)
        if not whole.startswith(self.between[0]) or position != len(whole):
            raise ChangedTurnError("the chat template writes more around these messages than around other texts")
        return [places[number] for number, role in enumerate(self.roles) if role == "assistant"]


@dataclass(frozen=True)
class _Written:
    """A rendered conversation.

    Attributes:
        text: What the template writes.
        marks: The spelling of a control token that each private character in it stands for.
        layout: What the template writes around the texts.
        texts: Where the assistant's texts begin and end.
    """

    text: str
    marks: Mapping[str, str]
    layout: _Layout
    texts: Sequence[tuple[int, int]]


def _lay_out(chat: ChatFormat, roles: tuple[str, ...]) -> _Layout:
    """Render placeholders in place of the texts, as a whole and turn by turn."""
    if roles[-1:] != ("assistant",):
        raise ModelError("the conversation does not end with the assistant")
    placeholders = unused_characters([str(chat.tokenizer.chat_template)], len(roles))
    messages = [{"role": role, "content": text} for role, text in zip(roles, placeholders, strict=True)]
    whole = render(chat, messages, generation_header=False)
    for role, placeholder in zip(roles, placeholders, strict=True):
        if whole.count(placeholder) != 1:
            how = "writes a message twice" if placeholder in whole else "leaves out or changes a message"
            raise ChangedTurnError(f"the chat template {how}: one of the role {role}")
    order = sorted(range(len(roles)), key=lambda number: whole.index(placeholders[number]))
    between = tuple(re.split(f"[{''.join(placeholders)}]", whole))
    answers = [number for number, role in enumerate(roles) if role == "assistant"]
    starts = [whole.index(placeholders[number]) for number in answers]
    begins = [*_begins_of_blocks(chat, messages, starts)] or [
        _begin_behind_header(render(chat, messages[:number], generation_header=True), whole, start, start == starts[-1])
        for number, start in zip(answers, starts, strict=True)
    ]
    stops = [text for text, id_ in chat.control_tokens.items() if id_ in chat.end_of_turn_ids]
    turns = []
    for number, start, begin in zip(answers, starts, begins, strict=True):
        behind = between[order.index(number) + 1]
        turns.append(_Turn(start - begin, any(stop in _own(behind, chat) for stop in stops)))
    return _Layout(roles, tuple(order), between, tuple(turns))


def _own(behind: str, chat: ChatFormat) -> str:
    """Return the part of what follows a turn that ends with the first control token: the next one is another turn's."""
    found = [(behind.find(token), behind.find(token) + len(token)) for token in chat.control_tokens if token in behind]
    first = min((at for at, _ in found), default=0)
    return behind[: max((end for at, end in found if at == first), default=0)]


def _begins_of_blocks(chat: ChatFormat, messages: Sequence[Message], starts: Sequence[int]) -> Iterator[int]:
    """Yield where the template's `{% generation %}` blocks begin, one for each assistant turn; nothing without them."""
    template = default_template(chat.tokenizer)
    if not _GENERATION.search(template):
        return
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = {**chat.tokenizer.special_tokens_map, **chat.template_kwargs}
    rendered: Any = render_jinja_template(
        [[*map(dict, messages)]], chat_template=template, return_assistant_tokens_mask=True, **variables
    )
    (blocks,) = rendered[1]
    for start in starts:
        block = next((begin for begin, end in blocks if begin <= start < end), None)
        if block is None:
            raise ModelError("the chat template has {% generation %} blocks, and an assistant turn is in none of them")
        yield int(block)


def _begin_behind_header(prompt: str, whole: str, start: int, is_last: bool) -> int:
    """Return where a turn begins: behind the generation header, as far as the conversation contains it.

    Args:
        prompt: The turns before it with the generation header.
        whole: The whole conversation.
        start: Where the turn's text begins in it.
        is_last: It is the last turn. Templates write an empty thought in their header and before the last turn, and
            drop it from earlier turns.
    """
    if whole.startswith(prompt) and not whole[len(prompt) : start].strip():
        return len(prompt)
    if prompt.startswith(whole[:start]) and not is_last:
        return start
    raise ModelError("the chat template renders the turns before an assistant turn differently once that turn is there")


def _token_at(chat: ChatFormat, written: _Written, ids: Sequence[int], encoding: Any, place: int) -> int:
    """Return the number of tokens before a place in the text.

    Raises:
        ModelError: A token goes across the place.
    """
    if encoding is not None and place > 0:
        at = encoding.char_to_token(place)
        before = encoding.char_to_token(place - 1)
        # Some tokenizers leave white space out of the places that they tell: then the long way shows what is there.
        if at is not None and before is not None and before < at and encoding.token_to_chars(at)[0] == place:
            return int(at)
    prefix = encode(chat, written.text[:place], written.marks)
    if list(ids[: len(prefix)]) != prefix:
        raise ModelError(
            "the tokens of an assistant turn do not begin where its text begins, as with white space at its beginning"
        )
    return len(prefix)
