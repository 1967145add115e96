"""Tokenises many prompts with their responses in one call of the tokenizer, each text once.

The ids are those of `rao_kedro.models.chat`, which tokenises one text after the other, and a prompt again with each of
its responses. A tokenizer cuts a text at control tokens before anything else, so the text between two of them is
tokenised once, wherever it occurs. A probe shows whether that holds for a model; if not, whole texts are tokenised.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rao_kedro.errors import ModelError
from rao_kedro.models.chat import (
    RenderedResponse,
    check_all_written,
    ids_of_rendered,
    prompt_token_ids,
    render,
    response_token_ids,
)
from rao_kedro.models.chat_format import ChatFormat
from rao_kedro.models.control_tokens import Message, encode, refuse_unknown, shield
from rao_kedro.models.conversation_tokens import ConversationTokenizer

_PROBES = ("Hi", " a", "a ", "\n\na\n", "\ta\t", "12 34", "'s a's", "a\u2581b", "日本語 é", ".", "<a>")


@dataclass(frozen=True)
class GroupTokens:
    """A prompt and its responses as token ids; an error in place of those that cannot be tokenised.

    Attributes:
        prompt: The prompt's ids.
        responses: The ids of each response; empty if the prompt has none.
        learned: Per response of several turns, whether the assistant writes each token; None if all have one turn.
    """

    prompt: list[int] | ModelError
    responses: list[list[int] | ModelError]
    learned: list[list[bool]] | None = None


@dataclass(frozen=True)
class _Rendered:
    prompt: str
    responses: list[RenderedResponse | ModelError]


class ChatTokenizer:
    """Tokenises prompts with their responses in one chat format, in batches."""

    def __init__(self, chat: ChatFormat) -> None:
        """Find the control tokens at which texts are cut."""
        self.chat = chat
        self._conversations = ConversationTokenizer(chat)
        self._cut: re.Pattern[str] | None = None
        self._known: dict[str, list[int]] = {}
        probes = list(self._render_probes())
        written = [token for token in chat.control_tokens if any(token in text for text in probes)]
        if written:
            self._cut = re.compile(f"(?=(?:{'|'.join(map(re.escape, written))}))")
            self._tokenize(probes)
            if any(self._ids_of(text) != encode(chat, text, {}) for text in probes):
                self._cut = None

    def tokenize(self, groups: Sequence[Mapping[str, Any]]) -> list[GroupTokens]:
        """Return the token ids of each group.

        Args:
            groups: Their `messages`, `responses` (texts), `finished` and, if they have them, `earlier_turns`, a value
                for each response.

        Returns:
            What `prompt_token_ids(..., every_message=True)` and `response_token_ids` return or raise; for responses of
            several turns, what `ConversationTokenizer.continue_prompt` does.
        """
        rendered = [self._render(group) for group in groups]
        texts = (text for of in rendered if isinstance(of, _Rendered) for text in _texts(of))
        self._tokenize(texts)
        return [
            self._tokens_of(group, of) if isinstance(of, _Rendered) else of
            for group, of in zip(groups, rendered, strict=True)
        ]

    def _render(self, group: Mapping[str, Any]) -> _Rendered | GroupTokens:
        """Render a group; a group whose texts spell control tokens is tokenised at once, text by text."""
        messages: list[Message] = list(group["messages"])
        answers: list[Message] = [{"role": "assistant", "content": text} for text in group["responses"]]
        try:
            if group.get("earlier_turns"):
                return self._of_several_turns(group, messages, answers)
            if shield(self.chat, [*messages, *answers])[1]:
                return _one_by_one(self.chat, group)
            prompt = render(self.chat, messages, generation_header=True)
            check_all_written(messages, prompt)
        except ModelError as error:
            return GroupTokens(error, [])
        responses: list[RenderedResponse | ModelError] = []
        for answer in answers:
            try:
                whole = render(self.chat, [*messages, answer], generation_header=False)
                responses.append(RenderedResponse([*messages, answer], {}, prompt, whole))
            except ModelError as error:
                responses.append(error)
        return _Rendered(prompt, responses)

    def _of_several_turns(
        self, group: Mapping[str, Any], messages: Sequence[Message], answers: Sequence[Message]
    ) -> GroupTokens:
        prompt = prompt_token_ids(self.chat, messages, every_message=True)
        responses: list[list[int] | ModelError] = []
        masks: list[list[bool]] = []
        for earlier, answer, finished in zip(group["earlier_turns"], answers, group["finished"], strict=True):
            learned: list[bool] = []
            try:
                ids, learned = self._conversations.continue_prompt(messages, [*earlier, answer], bool(finished))
                responses.append(ids)
            except ModelError as error:
                responses.append(error)
            masks.append(learned)
        return GroupTokens(prompt, responses, masks)

    def _tokens_of(self, group: Mapping[str, Any], rendered: _Rendered) -> GroupTokens:
        try:
            prompt = self._ids_of(rendered.prompt)
        except ModelError as error:
            return GroupTokens(error, [])
        responses: list[list[int] | ModelError] = []
        for of, finished in zip(rendered.responses, group["finished"], strict=True):
            try:
                if isinstance(of, ModelError):
                    raise of
                responses.append(ids_of_rendered(self.chat, of, bool(finished), self._ids_of))
            except ModelError as error:
                responses.append(error)
        return GroupTokens(prompt, responses)

    def _pieces(self, text: str) -> list[str]:
        """Cut a text before every control token: what follows one is tokenised with it, since some eat white space."""
        return [piece for piece in self._cut.split(text) if piece] if self._cut else [text]

    def _tokenize(self, texts: Iterable[str]) -> None:
        """Tokenise the pieces of texts, each once, in one call."""
        pieces = [piece for piece in {piece for text in texts for piece in self._pieces(text)} if _is_unicode(piece)]
        self._known = dict(zip(pieces, _ids_of_batch(self.chat, pieces), strict=True))

    def _ids_of(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._pieces(text):
            found = self._known.get(piece)
            if found is None:  # a text that only some responses need, or one that is not Unicode
                found = self._known[piece] = self.chat.text_ids(piece)
            ids += found
        refuse_unknown(self.chat, ids)
        return ids

    def _render_probes(self) -> Iterable[str]:
        for text in _PROBES:
            messages: list[Message] = [{"role": "user", "content": text}]
            dialogue: list[Message] = [*messages, {"role": "assistant", "content": text}]
            with suppress(ModelError):  # of a template that refuses it
                yield render(self.chat, messages, generation_header=True)
                yield render(self.chat, [*dialogue, *dialogue], generation_header=False)


def _texts(rendered: _Rendered) -> Iterable[str]:
    yield rendered.prompt
    yield from (of.whole for of in rendered.responses if isinstance(of, RenderedResponse))


def _one_by_one(chat: ChatFormat, group: Mapping[str, Any]) -> GroupTokens:
    """Return the tokens of a group the plain way."""
    messages = list(group["messages"])
    prompt = prompt_token_ids(chat, messages, every_message=True)
    responses: list[list[int] | ModelError] = []
    for text, finished in zip(group["responses"], group["finished"], strict=True):
        try:
            responses.append(response_token_ids(chat, messages, text, bool(finished)))
        except ModelError as error:
            responses.append(error)
    return GroupTokens(prompt, responses)


def _ids_of_batch(chat: ChatFormat, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    if not chat.tokenizer.is_fast:
        return [chat.text_ids(text) for text in texts]
    chat.text_ids("a")  # takes back what an earlier call set, such as truncation
    backend: Any = chat.tokenizer
    return [encoding.ids for encoding in backend.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
