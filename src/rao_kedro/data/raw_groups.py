"""Builds a raw prompt group from a row: its prompt, its responses and their ratings.

The formats say which columns to read and call these functions. If a response cannot be read, its error takes its place,
and the other responses stay.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rao_kedro.data.columns import PROMPTS, RATINGS, TEXT_KEYS
from rao_kedro.data.fields import Row, as_list, find_first, is_filled, is_list, look_up, parse, require
from rao_kedro.data.finished import read_finished_of_objects, read_finished_of_row
from rao_kedro.data.messages import (
    ROLES,
    Message,
    add_system,
    is_chat,
    is_transcript,
    join_context,
    read_completion,
    read_dialogue,
    read_history,
    read_text,
    shared_context,
)
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.ratings import RATING_NAMES, Ratings, choose_ratings, rate_objects


@dataclass
class RawGroup:
    """A prompt and its responses as a row has them, before any check.

    Attributes:
        messages: The dialogue up to the last message of the user.
        responses: K texts; for a text that cannot be read, the error.
        ratings: Per response its rating, or None.
        requirements: JSON list of the prompt's checkable requirements.
        finished: Per response, False if it was cut; None if all are finished.
        rated_by: The field of the ratings, in the words of the data report; empty if the prompt's rules rate.
        earlier_turns: Per response, its messages before its last one; None if all have one turn.
    """

    messages: list[Message]
    responses: Sequence[str | UnusableRow]
    ratings: list[float | None]
    requirements: str = field(default="[]")
    finished: list[bool] | None = None
    rated_by: str = ""
    earlier_turns: list[list[Message]] | None = None


def read_prompt(row: Row, names: Sequence[str] = PROMPTS) -> list[Message] | None:
    """Return the explicit prompt with the turns before it, or None if the row has none.

    Args:
        row: The row.
        names: Columns that may hold the prompt, in the order in which they are searched.
    """
    name = next((name for name in names if is_filled(row.get(name))), None)
    messages = None if name is None else read_dialogue(row[name], name)
    for other in ("messages", "conversations"):
        if messages is not None and name != other and is_filled(row.get(other)):
            whole = _without_answer(read_dialogue(row[other], other))
            messages = whole if whole[-len(messages) :] == messages else messages  # with the turns before it
    for other in ("input", "context"):
        if (
            messages
            and messages[-1]["role"] == "user"
            and isinstance(row[str(name)], str)
            and other not in names[:1]
            and name != other
        ):
            text = row.get(other)
            if not is_filled(text) or (other == "context" and not isinstance(text, str)):
                continue
            text = read_text(text, other)
            on_its_own = rf"(?:^|\n|:\s){re.escape(text.strip())}\s*(?:\n|$)"
            if name == "instruction" or not re.search(on_its_own, messages[-1]["content"]):
                messages[-1]["content"] += f"\n{text}"
    if is_filled(row.get("history")):
        messages = [*read_history(row["history"]), *(messages or [])]
    return messages


def _without_answer(messages: list[Message]) -> list[Message]:
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _check_prompt_columns(row: Row, messages: Sequence[Message]) -> None:
    """Check that the prompt contains the text of every column that may hold a prompt.

    Raises:
        UnusableRow: A column has other text; the detail names the column.
    """
    read = " ".join(" ".join(message["content"] for message in messages).split())
    for name in ("context", *PROMPTS):
        value = row.get(name)
        if not is_filled(value) or not (isinstance(value, str) or is_chat(value)):
            continue
        for message in _without_answer(read_dialogue(value, name)):
            if " ".join(message["content"].split()) not in read:
                detail = f"column {name} holds text that is not in the prompt that was read from the other columns"
                left_out = f"`columns: {{{name}: null}}` leaves it out"
                raise UnusableRow(QuarantineReason.BAD_DIALOGUE, f"{detail}; {left_out}")


def list_responses(value: Any) -> list[Any]:
    """Return the responses in `chosen` or `rejected`, which holds one response (text, message or chat) or a list."""
    if not is_list(value) or (is_chat(value) and not _only_answers(value)):
        return [value]
    return list(value)


def has_rating_each(row: Row, n: int) -> bool:
    """Return whether the row has a list of `n` ratings for its chosen responses."""
    lists = [value for name, value in row.items() if "chosen" in str(name).lower() and name != "chosen"]
    return any(is_list(value) and len(value) == n for value in lists)


def _only_answers(messages: Sequence[Mapping[str, Any]]) -> bool:
    roles = [ROLES.get(str(message.get("role") or message.get("from")).lower()) for message in messages]
    return len(messages) > 1 and set(roles) == {"assistant"}


def read_responses(
    row: Row,
    name: str,
    rating_key: str | None,
    keys: Sequence[str] = RATING_NAMES,
    prompts: Sequence[str] = PROMPTS,
) -> RawGroup:
    """Read a list of responses with their ratings.

    Args:
        row: The row.
        name: The column of the responses: texts, chats, or objects with a text.
        rating_key: The field of the ratings, in the objects or in the row.
        keys: Without a `rating_key`, the fields of the objects that may hold the rating; of the row, `RATINGS` may.
        prompts: Columns that may hold the prompt.
    """
    responses = as_list(require(row, name), name)
    texts = [r if not isinstance(r, Mapping) or is_chat(r) else find_first(r, TEXT_KEYS) for r in responses]
    if responses and all(isinstance(r, Mapping) for r in responses) and all(text is None for text in texts):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"a response has none of the fields {', '.join(TEXT_KEYS)}")
    keys = [rating_key] if rating_key else keys
    objects = [response for response in responses if isinstance(response, Mapping)]
    if any(look_up(response, key) is not None for response in objects for key in keys):
        ratings = rate_objects(responses, keys)
    else:
        ratings = _rating_lists(row, rating_key, len(responses))
    finished = read_finished_of_objects(responses) or read_finished_of_row(row, len(responses))
    return assemble_group(row, read_prompt(row, prompts), texts, ratings, finished)


def _rating_lists(row: Row, rating_key: str | None, n: int) -> Ratings:
    """Return the ratings of `n` responses from a list in the row."""
    keys = [rating_key] if rating_key else RATINGS
    found = {key: parse(value) if isinstance(value := look_up(row, key), str) else value for key in keys}
    lists = {key: as_list(value, key) for key, value in found.items() if is_list(value)}
    if not lists:
        detail = f"neither a column nor a field of the responses has ratings named {' or '.join(keys)}"
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"{detail}: name the field with rating_key")
    for key, values in lists.items():
        if len(values) != n:
            raise UnusableRow(QuarantineReason.BAD_TYPE, f"{n} responses and {len(values)} {key}")
    return choose_ratings(lists)


def assemble_group(
    row: Row,
    prompt: list[Message] | None,
    completions: Sequence[Any],
    rated: Ratings,
    finished: list[bool] | None,
    names: Sequence[str] = (),
) -> RawGroup:
    """Put a prompt and its responses together.

    Args:
        row: The row.
        prompt: The explicit prompt; None if the completions hold it.
        completions: The values of K responses.
        rated: Their ratings.
        finished: Per response, False if it was cut; None if all are finished.
        names: Names of the responses, for errors.

    Raises:
        UnusableRow: There is no prompt, the responses have different ones, or the prompt has more than text.
    """
    for name in ("images", "image", "tools", "audio", "videos"):
        if is_filled(value := row.get(name)) and value != "[]":
            detail = f"column {name} is not supported as part of a prompt; `columns: {{{name}: null}}` leaves it out"
            raise UnusableRow(QuarantineReason.NOT_TEXT, detail)
    responses: list[str | UnusableRow] = []
    ratings: list[float | None] = []
    contexts = []
    names = names or [f"response {number}" for number in range(1, len(completions) + 1)]
    open_transcript = any(is_transcript(row.get(name)) for name in PROMPTS)  # its responses begin with a blank
    for name, completion, rating in zip(names, completions, rated.values, strict=True):
        try:
            text = completion.strip() if open_transcript and isinstance(completion, str) else completion
            messages = read_completion(text, name)
            if isinstance(rating, UnusableRow):
                raise rating
        except UnusableRow as problem:
            responses.append(problem)
            ratings.append(None)
        else:
            contexts.append(messages[:-1])
            responses.append(messages[-1]["content"])
            ratings.append(rating)
    if prompt is None and not any(contexts):
        first_problem = next((response for response in responses if isinstance(response, UnusableRow)), None)
        empty = QuarantineReason.EMPTY_PROMPT if any(name in row for name in PROMPTS) else None
        detail = f"no prompt: none of the columns {', '.join(PROMPTS)}"
        raise first_problem or UnusableRow(empty or QuarantineReason.MISSING_COLUMN, detail)
    shared = shared_context(contexts)
    messages = add_system(row, join_context(prompt, shared))
    _check_prompt_columns(row, messages)
    rest = iter(context[len(shared) :] for context in contexts)
    earlier = [[] if isinstance(response, UnusableRow) else next(rest) for response in responses]
    return RawGroup(
        messages,
        responses,
        ratings,
        finished=finished,
        rated_by=rated.by,
        earlier_turns=earlier if any(earlier) else None,
    )
