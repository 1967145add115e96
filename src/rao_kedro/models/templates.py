"""Checks of chat templates: each is tried once with a plain chat. Knows nothing of weights."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError, ParameterError
from rao_kedro.models.chat_templates import shipped_names
from rao_kedro.models.thinking import CLOSE, OPEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The date that templates print instead of today's: the fallback of Llama 3's own template.
DAY = datetime(2024, 7, 26)
DATE_CALL = re.compile(r"""\bstrftime_now\(\s*(["'])(.*?)\1\s*\)""")
NOT_A_CALL = re.compile(r"\bstrftime_now\s+is\s+(not\s+)?defined\b|\{#.*?#\}", re.DOTALL)
# A default, which `chat_template_kwargs` of generation overrides.
NO_REASONING = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}\n"
# Variables that transformers itself passes to a template.
GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
USER, SYSTEM, ANSWER = "Hello", "Be brief", "Yes"
WHAT_TO_DO = "Write a template without this fault, and name its file with the parameter model.chat_template"


def fix_date(template: str | dict[str, str] | None, source: str | Path) -> str | dict[str, str]:
    """Return a chat template, or several named ones, in which today's date is replaced by a fixed date.

    Args:
        template: The attribute `chat_template` of a tokenizer.
        source: Where the tokenizer comes from, for errors.

    Raises:
        ModelError: There is no template, no named template is the default, or the date cannot be fixed.
    """
    if not template:
        raise ModelError(
            f"the tokenizer in {source} has no chat template: add a chat_template.jinja beside it that writes a "
            "dialogue as its model card describes, or set tokenizer.chat_template and save it again. For the base "
            "model, set the parameter model.chat_template to a file, to {model: NAME} for another model's template, or "
            f"to one that ships: {', '.join(shipped_names())}"
        )
    if isinstance(template, str):
        return _fix_date(template, source)
    if "default" not in template:
        raise ModelError(
            f"the tokenizer in {source} has the chat templates {', '.join(sorted(template))}, but none named default: "
            "rename the one for chats, or save it beside the tokenizer as chat_template.jinja. For the base model, "
            "name a file with the parameter model.chat_template"
        )
    return {name: _fix_date(text, source) for name, text in template.items()}


def _fix_date(template: str, source: str | Path) -> str:
    fixed = DATE_CALL.sub(lambda call: f"{call[1]}{DAY.strftime(call[2])}{call[1]}", template)
    if "strftime_now" in NOT_A_CALL.sub("", fixed):
        raise ModelError(
            f"the chat template in {source} prints today's date (strftime_now) in a way that no fixed date can "
            f"replace, so its prompts would change every day. {WHAT_TO_DO}"
        )
    return fixed


def default_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the template for chats without tools."""
    template: Any = tokenizer.chat_template
    return str(template["default"] if isinstance(template, dict) else template)


def refuse_unread(kwargs: Mapping[str, Any], tokenizer: "PreTrainedTokenizerBase", source: str | Path) -> None:
    """Refuse variables that a chat template does not read, since they would have no effect.

    Raises:
        ParameterError: There is such a variable; the message names it, and the variables that the template reads.
    """
    if not kwargs:
        return
    from transformers.utils.chat_template_utils import _get_template_variables

    read = _get_template_variables(default_template(tokenizer)) - {*GIVEN, *tokenizer.special_tokens_map}
    if unread := sorted({*kwargs} - read):
        raise ParameterError(
            f"chat_template_kwargs: the chat template in {source} does not read {', '.join(unread)}; it reads "
            f"{', '.join(sorted(read)) or 'no variable that can be set'}"
        )


def check_template(tokenizer: "PreTrainedTokenizerBase", source: str | Path) -> str:
    """Return a template that writes a response directly after its prompt.

    If the template writes reasoning into a response that has none, and reads `enable_thinking`, the returned template
    sets that variable to false.

    Raises:
        ModelError: The template cannot write a plain chat, or adds text to it, such as `<think>`.
    """
    template = default_template(tokenizer)
    try:
        _check_turns(tokenizer, template, source)
    except ModelError:
        if "enable_thinking" not in template:
            raise
        _check_turns(tokenizer, template := NO_REASONING + template, source)
    return template


def _check_turns(tokenizer: "PreTrainedTokenizerBase", template: str, source: str | Path) -> None:
    where = f"the chat template in {source}"
    prompt = _render(tokenizer, template, source, [("user", USER)], header=True)
    whole = _render(tokenizer, template, source, [("user", USER), ("assistant", ANSWER)])
    if USER not in prompt:
        raise ModelError(f"{where} leaves out the user's text. {WHAT_TO_DO}")
    reasoning = " Training data and judges expect responses without reasoning." if "think" in prompt + whole else ""
    if not whole.startswith(prompt):
        raise ModelError(
            f"{where} ends a prompt with {prompt[-40:]!r}, which it does not write before a response: training and "
            f"generation would have different prompts.{reasoning} {WHAT_TO_DO}"
        )
    between, answer, _ = whole[len(prompt) :].partition(ANSWER)
    if not answer:
        raise ModelError(f"{where} leaves out or changes the assistant's text. {WHAT_TO_DO}")
    if between.strip():
        raise ModelError(
            f"{where} writes {between!r} before a response that does not contain it, so training would treat it as a "
            f"part of every response.{reasoning} {WHAT_TO_DO}"
        )


def system_messages(tokenizer: "PreTrainedTokenizerBase", template: str) -> str:
    """Describe what a template does with a system message."""
    turns = [("system", SYSTEM), ("user", USER)]
    try:
        prompt = _render(tokenizer, template, "", turns, header=True)
        whole = _render(tokenizer, template, "", [*turns, ("assistant", ANSWER)])
    except ModelError:
        return "refused"
    if SYSTEM not in prompt:
        return "left out"
    return "written" if whole.startswith(prompt) else "moved when a response follows, so such rows are quarantined"


def turn_end(tokenizer: "PreTrainedTokenizerBase", template: str) -> int | None:
    """Return the first added token that a template writes after a response; None if there is none."""
    whole = _render(tokenizer, template, "", [("user", USER), ("assistant", ANSWER)])
    ids = tokenizer(whole.rpartition(ANSWER)[2], add_special_tokens=False)["input_ids"]
    return next((int(id_) for id_ in ids if id_ in tokenizer.added_tokens_decoder), None)


# Spellings of control tokens: <|im_start|>, <start_of_turn>, [INST].
CONTROL = re.compile(r"<\|[^<>\s]{1,40}\|>|<[a-z]+_of_[a-z]+>|\[/?[A-Z][A-Z_]{1,40}\]")


def control_tokens(
    tokenizer: "PreTrainedTokenizerBase", template: str, source: str, known: Sequence[str] | None = None
) -> list[str]:
    """Return the control tokens that a template writes into a plain chat.

    Args:
        tokenizer: The tokenizer that will use the template.
        template: The template.
        source: Where the template comes from, for errors.
        known: The control tokens of the model that the template belongs to; None looks for usual spellings.
    """
    turns = [("user", USER), ("assistant", ANSWER)]
    text = _render(tokenizer, template, source, turns, header=True) + _render(
        tokenizer, template, source, turns[:1], header=True
    )
    found = CONTROL.findall(text) if known is None else [token for token in known if token in text]
    return [token for token in dict.fromkeys(found) if token not in (OPEN, CLOSE) and token.strip()]


def begins_with_bos(tokenizer: "PreTrainedTokenizerBase", template: str, source: str) -> bool:
    """Return whether a template writes the token with which the tokenizer begins texts, if it begins them with one."""
    bos = tokenizer.bos_token
    if bos is None or tokenizer(USER)["input_ids"][:1] != [tokenizer.bos_token_id]:
        return True
    return _render(tokenizer, template, source, [("user", USER)], header=True).startswith(bos)


def _render(
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    source: str | Path,
    turns: list[tuple[str, str]],
    header: bool = False,
) -> str:
    messages = [{"role": role, "content": text} for role, text in turns]
    with _template_errors(source, " and ".join(role for role, _ in turns)):
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=header
            )
        )


@contextmanager
def _template_errors(source: str | Path, roles: str) -> Iterator[None]:
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the chat template in {source} cannot write messages of {roles} ({type(error).__name__}: {error}). "
            "Write a template that can, and name its file with the parameter model.chat_template"
        ) from error
