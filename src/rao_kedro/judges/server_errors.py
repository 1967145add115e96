"""Decides whether an error of a chat server refuses one request or ends a run.

A run ends if the server cannot be reached, fails or is busy after all retries, if it refuses the key or the quota is
used up, or if something that all requests share is wrong (the model, a parameter). Any other error concerns one
request.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openai

# 402: payment required. The openai package has already retried 408, 409 and 429.
NOT_OF_ONE_REQUEST = (401, 402, 408, 409, 429)
UNSUPPORTED_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter", "model_not_found")
UNSUPPORTED = re.compile(
    r"unsupported (parameter|value)|not supported with this model|unknown parameter|unrecognized (request )?argument|"
    r"extra (inputs|fields) (are )?not permitted|allowed to request logprobs",
    re.IGNORECASE,
)
QUOTA = re.compile(r"quota|billing|budget|credit balance|insufficient balance|arrear", re.IGNORECASE)
CONTENT = re.compile(r"content|filter|moderat|flagged|safety|policy|guardrail", re.IGNORECASE)
HINTS = {
    "max_completion_tokens": "set its parameter max_tokens_field: max_completion_tokens",
    "temperature": "set its parameter temperature: null, which leaves it out of the request",
    "logprobs": "read its answers as text (a judge's verdict: text, a reward's read: text)",
    "max_tokens": "set its parameter max_tokens: null, which leaves it out of the request",
}


def explain_ending_error(error: "openai.OpenAIError", works: bool) -> str | None:
    """Return why an error ends a run, and what to do; None if it concerns one request only.

    Args:
        error: An error of the openai package, other than a timeout or a refused key.
        works: Whether the server has given a usable answer.
    """
    import openai

    if not isinstance(error, openai.APIStatusError):
        return _join_causes(error)
    status, text = error.status_code, f"{error.code} {error.type} {_message(error)}"
    if error.code in UNSUPPORTED_CODES or UNSUPPORTED.search(text):
        hint = next((hint for name, hint in HINTS.items() if name in text), "change the parameters of this model")
        return f"{_join_causes(error)}: {hint}"
    if status >= 500 or status in NOT_OF_ONE_REQUEST or QUOTA.search(text):
        return _join_causes(error)
    if status == 404 and (not works or "model" in text.lower()):
        return f"{_join_causes(error)}: the server does not know the model or the address; correct model and base_url"
    if status == 403 and not (isinstance(error.body, Mapping) and CONTENT.search(text)):
        return _join_causes(error)
    return None


def explain_refusal(error: "openai.APIStatusError") -> str:
    """Return in one line why a server refused one request."""
    return f"the server refused the request with HTTP status {error.status_code}: {_message(error)[:300]}"


def _message(error: "openai.APIStatusError") -> str:
    """Return the server's message, or its whole reply if that has no message."""
    body = error.body
    said = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
    return " ".join(str(said or error.message).split())


def _join_causes(error: Exception) -> str:
    """Return the messages of an error and of its cause."""
    return " ".join(str(part)[:300] for part in (error, error.__cause__) if part is not None)
