"""Replies of a chat model: the reply as the server sent it, its answer without the thinking, and token log-probs.

Knows the form of OpenAI's chat completions. Knows nothing about how a server is reached, or where replies are cached.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from rao_kedro.judges.metering import estimate_tokens
from rao_kedro.models.thinking import CLOSE, OPEN, split_thinking


class Token(BaseModel):
    """A token of an answer.

    Attributes:
        text: The token, as the server spells it.
        logprobs: Log-probs in nats of the likeliest tokens at its position, by their text. Several tokens with the same
            text count as one, with the sum of their probabilities.
    """

    text: str
    logprobs: dict[str, float]


class Answer(BaseModel):
    """A model's answer to one dialogue.

    Attributes:
        text: The text after the thinking.
        tokens: The tokens, if log-probs were requested; they may include those of the thinking.
        prompt_tokens: Tokens read, as the server counts them; estimated from the text if the server does not.
        completion_tokens: Tokens written, including those of the thinking.
        finish_reason: `stop`, `length`, `content_filter` or another word of the server; empty if it gives none.
        thinking: The text of the thinking.
        thinking_was_cut: The model reached the token limit while it was thinking.
        refusal: Why the server refused the request, or the model declined to answer.
    """

    text: str
    tokens: list[Token] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    thinking: str = ""
    thinking_was_cut: bool = False
    refusal: str = ""

    @property
    def whole(self) -> str:
        """Thinking and answer in one text, as models that think write them."""
        if not self.thinking:
            return self.text
        return f"{OPEN}{self.thinking}" + ("" if self.thinking_was_cut else f"{CLOSE}\n\n{self.text}")

    def failure(self, complete: bool = True) -> str:
        """Return why there is no answer; empty if there is one.

        Args:
            complete: Whether an answer that was cut at its token limit counts as none.
        """
        if self.refusal:
            return self.refusal
        if self.finish_reason == "content_filter":
            return "the answer was filtered"
        if self.thinking_was_cut:
            return "the thinking was cut at the token limit (max_tokens)"
        if not self.text.strip():
            return "the answer is empty"
        return (
            "the answer was cut at the token limit (max_tokens)" if complete and self.finish_reason == "length" else ""
        )


Unusable = Callable[[Answer], str]  # returns why an answer cannot be used; empty if it can


class Reply(BaseModel):
    """The cached reply to a request: the last reply as the server sent it, and the tokens of all attempts.

    Attributes:
        text: The message, including the thinking if the server leaves it there.
        tokens: As in `Answer`.
        prompt_tokens: Tokens read in the last attempt.
        completion_tokens: Tokens written in the last attempt.
        finish_reason: The server's word, as in `Answer`.
        refusal: Why there is no text.
        reasoning: The thinking, if the server sends it in its own field.
        attempts: Number of times that the request was sent.
        earlier_prompt_tokens: Tokens read in the attempts before the last one.
        earlier_completion_tokens: Tokens written in the attempts before the last one.
    """

    text: str = ""
    tokens: list[Token] = []
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = ""
    reasoning: str = ""
    refusal: str = ""
    attempts: int = 1
    earlier_prompt_tokens: int = 0
    earlier_completion_tokens: int = 0

    @property
    def answer(self) -> Answer:
        """The answer, separated from the thinking."""
        thinking, answer = split_thinking(self.text)
        thought_only = bool(self.reasoning) and not (answer or "").strip() and self.finish_reason == "length"
        return Answer(
            text=answer or "",
            tokens=self.tokens,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            finish_reason=self.finish_reason,
            thinking=self.reasoning or thinking,
            thinking_was_cut=answer is None or thought_only,
            refusal=self.refusal,
        )

    def after(self, before: "Reply | None") -> "Reply":
        """Return this reply with the attempts and tokens of an earlier reply added."""
        if before is None:
            return self
        return self.model_copy(
            update={
                "attempts": before.attempts + 1,
                "earlier_prompt_tokens": before.earlier_prompt_tokens + before.prompt_tokens,
                "earlier_completion_tokens": before.earlier_completion_tokens + before.completion_tokens,
            }
        )


class ForeignReplyError(Exception):
    """A server sent something other than a chat completion."""


def parse_reply(body: str, request: Mapping[str, Any]) -> Reply:
    """Read the JSON that a server sent.

    Args:
        body: The JSON.
        request: The request; its tokens are estimated if the server does not count them.

    Raises:
        ForeignReplyError: The JSON is not a chat completion.
    """
    try:
        fields = json.loads(body)
        if fields.get("error") and not fields.get("choices"):  # some servers refuse with status 200
            why = f"the server refused the request: {str(fields['error'])[:300]}"
            return Reply(refusal=why, **read_usage(fields))
        choice = fields["choices"][0]
        message = choice["message"]
        text, content = message.get("content") or "", (choice.get("logprobs") or {}).get("content") or []
        reply = Reply(
            text=text,
            tokens=[Token(text=token["token"], logprobs=_merge_by_text(token["top_logprobs"])) for token in content],
            finish_reason=choice.get("finish_reason") or "",
            reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
            refusal=f"the model declined: {message['refusal'][:300]}" if message.get("refusal") and not text else "",
        )
        usage = read_usage(fields)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ForeignReplyError from error
    if not usage:
        read = "".join(message["content"] for message in request["messages"])
        usage = {
            "prompt_tokens": estimate_tokens(read),
            "completion_tokens": estimate_tokens(reply.text + reply.reasoning),
        }
    return reply.model_copy(update=usage)


def read_usage(body: Any) -> dict[str, int]:
    """Return the numbers of tokens that a server reports to have read and written; empty if it reports none.

    Some servers count the thinking in the total only.
    """
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return {}
    read, written = (usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
    return {"prompt_tokens": read, "completion_tokens": max(written, (usage.get("total_tokens") or 0) - read)}


def _merge_by_text(alternatives: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return log-probs by text: SentencePiece has two tokens `7`, one that starts a word and one that does not."""
    merged: dict[str, float] = {}
    for token in alternatives:
        merged[token["token"]] = float(np.logaddexp(merged.get(token["token"], -np.inf), token["logprob"]))
    return merged
