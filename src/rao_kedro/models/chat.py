"""Turns chat messages into the token ids of prompts, responses and dialogues. Knows nothing of weights or training.

The tokens of a response end with the token at which generation stops if and only if the response is finished.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import ChatFormat
from rao_kedro.models.control_tokens import Message, encode, shield, spell_out, unused_characters

Encode = Callable[[str], list[int]]


def prompt_token_ids(chat: ChatFormat, messages: Sequence[Message], every_message: bool = False) -> list[int]:
    """Return the ids of a prompt with its generation header. They contain BOS only if the template writes it.

    Args:
        chat: The model's chat format.
        messages: The prompt.
        every_message: Raise an error if the template leaves out or changes a message. White space around a message, and
            the reasoning of earlier turns, may change.

    Raises:
        ModelError: The template refuses the messages, or they cannot be tokenised.
    """
    shielded, marks = shield(chat, messages)
    prompt = render(chat, shielded, generation_header=True)
    if every_message:
        check_all_written(shielded, prompt)
    return encode(chat, prompt, marks)


def response_token_ids(
    chat: ChatFormat, messages: Sequence[Message], response: str, finished: bool = True
) -> list[int]:
    """Return the ids of a response; there is always at least one.

    Args:
        chat: The model's chat format.
        messages: The prompt.
        response: The text.
        finished: The response is complete. It ends with the first end-of-turn token that the template writes after the
            text, or with the tokenizer's EOS if the template writes none; what the template writes after that token is
            dropped. A response that is not finished ends with its text. An empty response gets its end-of-turn token in
            either case.

    Raises:
        ModelError: The template refuses the messages, they cannot be tokenised, the template changes the response
            (white space around it may change), or the prompt's tokens are not a prefix of the dialogue's tokens, so
            that the log-prob of the response given the prompt would not be well defined.
    """
    shielded, marks = shield(chat, [*messages, {"role": "assistant", "content": response}])
    prompt = render(chat, shielded[:-1], generation_header=True)
    whole = render(chat, shielded, generation_header=False)
    return ids_of_rendered(
        chat, RenderedResponse(shielded, marks, prompt, whole), finished, partial(encode, chat, marks=marks)
    )


@dataclass(frozen=True)
class RenderedResponse:
    """A prompt and a response as the chat template writes them.

    Attributes:
        messages: The messages of the prompt and the response, shielded.
        marks: The spelling of a control token that each private character stands for.
        prompt: The prompt with its generation header.
        whole: The dialogue.
    """

    messages: Sequence[Message]
    marks: Mapping[str, str]
    prompt: str
    whole: str


def ids_of_rendered(chat: ChatFormat, rendered: RenderedResponse, finished: bool, ids_of: Encode) -> list[int]:
    """Return the ids of a response that was rendered; see `response_token_ids`.

    Args:
        chat: The model's chat format.
        rendered: What the template writes.
        finished: The response is complete.
        ids_of: Returns the ids of a rendered text.
    """
    prompt, whole, marks = rendered.prompt, rendered.whole, rendered.marks
    prompt_ids = ids_of(prompt)
    ids = _ids_behind(prompt, prompt_ids, whole, ids_of)
    n_text = min((ids.index(end) for end in chat.end_of_turn_ids if end in ids), default=len(ids))
    content = rendered.messages[-1]["content"].strip()
    if finished and n_text < len(ids):
        written = _before_end_of_turn(chat, whole[len(prompt) :]).strip()
        if written != content and written.startswith(content):  # does what follows belong to the turn, or to the text?
            written = _up_to_text_end(chat, rendered.messages, whole, finished)[len(prompt) :]
        _check_unchanged(written, content, marks)
        return ids[: n_text + 1]
    up_to_end = _up_to_text_end(chat, rendered.messages, whole, finished)
    own = _ids_behind(prompt, prompt_ids, up_to_end, ids_of)
    _check_unchanged(up_to_end[len(prompt) :], content, marks)
    return [*own, chat.final_id] if finished or not own else own


def dialogue_token_ids(
    chat: ChatFormat, messages: Sequence[Message], response: str, finished: bool = True
) -> list[int]:
    """Return the ids of a whole dialogue, with everything that the template writes after the response.

    These are the ids of `apply_chat_template(dialogue)`, as in the model cards of classifiers: without a generation
    header, and with BOS only if the template writes it.

    Args:
        chat: The model's chat format.
        messages: The dialogue up to the last message of the user.
        response: The text.
        finished: False for a response that was cut: the ids end with its last token.

    Raises:
        ModelError: The template refuses the messages, or they cannot be tokenised.
    """
    shielded, marks = shield(chat, [*messages, {"role": "assistant", "content": response}])
    whole = render(chat, shielded, generation_header=False)
    return encode(chat, whole if finished else _up_to_text_end(chat, shielded, whole, finished), marks)


def _ids_behind(prompt: str, prompt_ids: list[int], whole: str, ids_of: Encode) -> list[int]:
    if not whole.startswith(prompt):
        raise ModelError("the chat template renders the prompt differently once the response is there")
    ids = ids_of(whole)
    if ids[: len(prompt_ids)] != prompt_ids:
        raise ModelError("the prompt's tokens are not a prefix of the tokens of prompt and response")
    return ids[len(prompt_ids) :]


def check_all_written(messages: Sequence[Message], prompt: str) -> None:
    """Look for every message in a rendered prompt, the longest first: a short message can be part of a longer one.

    Raises:
        ModelError: The template leaves out or changes a message.
    """
    for message in sorted(messages, key=lambda message: len(message["content"].strip()), reverse=True):
        text = message["content"].strip()
        if text not in prompt and message["role"] == "assistant":
            text = text.rpartition("</think>")[2].strip()  # templates drop the reasoning of earlier turns
        if text not in prompt:
            raise ModelError(
                f"the chat template leaves out or changes a message of the role {message['role']}; use a template that "
                "writes every message unchanged (model.chat_template)"
            )
        prompt = prompt.replace(text, "\0", 1) if text else prompt


def _before_end_of_turn(chat: ChatFormat, text: str) -> str:
    ends = [text.find(token) for token, id_ in chat.control_tokens.items() if id_ in chat.end_of_turn_ids]
    return text[: min((end for end in ends if end >= 0), default=None)]


def _check_unchanged(written: str, content: str, marks: Mapping[str, str]) -> None:
    written = written.strip()
    if written != content:
        n = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(written, content, strict=False))))
        instead, own = (spell_out(text[n : n + 40], marks) for text in (written, content))
        raise ModelError(
            f"the chat template changes the text of the response: it writes {instead!r} instead of {own!r}"
        )


def _up_to_text_end(chat: ChatFormat, messages: Sequence[Message], whole: str, finished: bool) -> str:
    """Return a rendered dialogue up to the end of the last message's text."""
    *before, last = messages
    (mark,) = unused_characters([str(chat.tokenizer.chat_template), whole], 1)
    marked = render(chat, [*before, {**last, "content": last["content"] + mark}], generation_header=False)
    if mark not in marked:
        raise ModelError("the chat template does not write the text of the response")
    text = marked[: marked.index(mark)]
    # A template that strips texts also strips a complete one. White space at the end of a cut text is part of the text.
    return text if not finished or whole.startswith(text) else text.rstrip()


def render(chat: ChatFormat, messages: Sequence[Message], generation_header: bool) -> str:
    """Return what the chat template writes.

    Raises:
        ModelError: The template refuses the messages.
    """
    try:
        return str(
            chat.tokenizer.apply_chat_template(
                [*map(dict, messages)],
                tokenize=False,
                add_generation_prompt=generation_header,
                **chat.template_kwargs,
            )
        )
    except Exception as error:  # a template is third-party code, which may raise any exception
        raise ModelError(f"the chat template refuses these messages: {type(error).__name__}: {error}") from error


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest prefix of tokens that all sequences share: the longest possible t_0."""
    first, last = min(map(tuple, sequences)), max(map(tuple, sequences))
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return list(first[:length])
