"""What published preference data look like: one function per format, from a row to a prompt group.

Knows nothing about files. A format is added by adding a function and a line to `FORMATS` (and its name to
`PreferenceSource.format`).
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any

from rao_kedro.data.fields import Row, as_list, first_of, is_list, look_up, parse, required
from rao_kedro.data.finished import finished_of_objects, finished_of_pair, finished_of_row
from rao_kedro.data.messages import (
    ROLES,
    Message,
    is_chat,
    is_transcript,
    join_context,
    read_completion,
    read_dialogue,
    read_history,
    text_of,
    with_system,
)
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.ratings import (
    RATING_NAMES,
    Ratings,
    is_rank,
    one_scale,
    rate_objects,
    rate_pair,
    read_ratings,
)

# What columns are called, in the order in which they are looked for.
PROMPTS = ("prompt", "messages", "conversations", "instruction", "question", "query", "input")
RESPONSES = ("responses", "completions", "generations", "all_generated_responses", "answers", "candidates_completions")
RATINGS = ("ratings", "scores", "rating", "score", "rewards", "all_rm_scores", "ranks", "ranking", "rank")
RANKS = {"ratings": "ranks", "rating": "rank", "chosen_rating": "chosen_rank", "rejected_rating": "rejected_rank"}
SINGLE = ("response", "completion", "output", "answer")
_TEXT_KEYS = ("text", "response", "content", "output", "answer", "completion")


@dataclass
class RawGroup:
    """A prompt and its responses as a row gave them, not checked yet.

    Attributes:
        messages: The dialogue up to the last message of the user.
        responses: K texts; in place of one that cannot be read, why.
        ratings: Of each response; None where it has none.
        requirements: JSON list of the prompt's checkable requirements.
        finished: Per response, False where it was cut before its end; None where all are finished.
        rated_by: What the ratings are, as the data report says it; empty where they are the prompt's requirements.
    """

    messages: list[Message]
    responses: Sequence[str | UnusableRow]
    ratings: list[float | None]
    requirements: str = field(default="[]")
    finished: list[bool] | None = None
    rated_by: str = ""


class Rows(StrEnum):
    """Which rows are one prompt group."""

    ONE = "one"
    CONSECUTIVE = "consecutive"
    ALL = "all"


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        read: From a row and the parameter `rating_key` to a group; a group of one response where `rows` is not one.
        columns: Alternatives of columns that show it.
        weak_columns: Alternatives that show it where no format's `columns` do.
        rows: Which rows are one group: each for itself, consecutive ones of one prompt, or all of one prompt.
    """

    read: Callable[..., RawGroup]
    columns: tuple[frozenset[str], ...]
    weak_columns: tuple[frozenset[str], ...] = ()
    rows: Rows = Rows.ONE


def trl(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read TRL's preference format: prompt, chosen, rejected, as text or as chats, the prompt explicit or implicit.

    Chosen and rejected may go on with turns that both share, and may be lists of several responses. Ratings are fields
    such as `score_chosen` and `chosen-rating`, in the row or in its `metadata`; without any, 1 and 0. Also reads the
    binarised UltraFeedback of HuggingFaceH4, whose chosen and rejected chats repeat the prompt.
    """
    chosen, rejected = _several(required(row, "chosen")), _several(required(row, "rejected"))
    if len(chosen) > 1 and is_chat(row["chosen"]) and not _rated_each(row, len(chosen)):
        chosen = [row["chosen"]]  # one response of several messages
    rated = rate_pair(row, rating_key, len(chosen), len(rejected))
    finished = finished_of_pair(row, len(chosen), len(rejected))
    if (of_messages := finished_of_objects([*chosen, *rejected])) is not None:
        finished = [all(both) for both in zip(of_messages, finished or of_messages, strict=True)]
    names = ["chosen"] * len(chosen) + ["rejected"] * len(rejected)
    prompt = _prompt(row)
    if prompt and prompt[-1]["role"] == "assistant" and not _holds(row.get("prompt")) and _holds(row.get("messages")):
        prompt = None  # not the prompt, but the dialogue with one of the responses
    return _group(row, prompt, [*chosen, *rejected], rated, finished, names)


def hh_rlhf(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read Anthropic's transcripts; the prompt is what chosen and rejected share up to the last answer."""
    for name in ("chosen", "rejected"):
        if not is_transcript(required(row, name)):
            detail = 'a transcript starts with "\\n\\nHuman:" and ends with an answer after "\\n\\nAssistant:"'
            raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is none: {detail}")
    return trl(row, rating_key)


def alpaca(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read LLaMA-Factory's alpaca layout: instruction, input, chosen, rejected, system, history."""
    required(row, "instruction")
    return trl(row, rating_key)


def sharegpt(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read LLaMA-Factory's ShareGPT layout: conversations of from and value, and two single messages."""
    required(row, "conversations")
    return trl(row, rating_key)


def ultrafeedback(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read openbmb's UltraFeedback: an instruction and completions with their scores.

    The rating is `rating_key`, which may be `annotations.helpfulness.Rating`; or the fine-grained score (mean of the
    aspects), or the overall one, or the mean of the aspects' ratings: of one group the first of these that all
    completions have.
    """
    keys = ("fine-grained_score", "overall_score", "annotations.*.Rating", *RATING_NAMES)
    return _rated(row, "completions", rating_key, keys)


def nectar(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read Nectar: a transcript and its answers, each with its rank."""
    return _rated(row, "answers", rating_key, ("rank", *RATING_NAMES))


def nemo_rl(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read NeMo RL's preference data: context, and completions that are messages with a rank."""
    return _rated(row, "completions", rating_key, ("rank", *RATING_NAMES), prompts=("context",))


def simpo(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read SimPO's files: all_generated_responses with all_rm_scores; chosen and rejected are two of them."""
    return _rated(row, "all_generated_responses", rating_key)


def distilabel(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read distilabel's tables: instruction, generations, ratings (in older ones `rating`)."""
    return _rated(row, "generations", rating_key)


def rated(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read a prompt with any number of rated responses.

    Responses are texts or chats beside a list of ratings (`rating_key`, or `ratings`, `scores`, `ranks` ...), or
    objects with a text (text, response, content, output, answer or completion) and a rating (`rating_key`, or rating,
    score ...).
    """
    name = next((name for name in RESPONSES if row.get(name) is not None), "responses")
    return _rated(row, name, rating_key, prompts=("messages", *PROMPTS))


def helpsteer3(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read HelpSteer3's pairs: context, response1, response2, and overall_preference from -3 (the first) to 3.

    Also HelpSteer2's: prompt, response_1, response_2, preference_strength.
    """
    names = ("response1", "response2") if row.get("response1") is not None else ("response_1", "response_2")
    key = rating_key or ("overall_preference" if row.get("overall_preference") is not None else "preference_strength")
    [preference] = read_ratings(key, [required(row, key)]).values
    if not isinstance(preference, float):
        raise preference or UnusableRow(QuarantineReason.UNRATED_RESPONSE, f"{key} is empty")
    rated = Ratings([-preference / 2, preference / 2], key)
    return _group(
        row,
        _prompt(row, ("context", *PROMPTS)),
        [required(row, name) for name in names],
        rated,
        finished_of_row(row, 2),
    )


def safe_rlhf(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read PKU-SafeRLHF: response_0, response_1, and the better one's number in better_response_id.

    With the `rating_key` safer_response_id, the safer one is preferred.
    """
    key = rating_key or "better_response_id"
    better = str(required(row, key)).strip().removesuffix(".0")
    if better not in ("0", "1"):
        raise UnusableRow(QuarantineReason.BAD_RATING, f"{key} is {better}, neither 0 nor 1")
    rated = Ratings([float(better == "0"), float(better == "1")], key)
    responses = [required(row, name) for name in ("response_0", "response_1")]
    return _group(row, _prompt(row), responses, rated, finished_of_row(row, 2))


def helpsteer2(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read HelpSteer2: one response a row, rated by attributes; the rating is `rating_key`, or helpfulness.

    Also other tables of this kind: prompt, response, rating or score. Consecutive rows of one prompt are one group.
    """
    keys = [rating_key] if rating_key else ["helpfulness", *RATING_NAMES]
    response = row.get(next((name for name in SINGLE if row.get(name) is not None), SINGLE[0]))
    if not any(key in row or look_up(row, key) is not None for key in keys):
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no rating: none of the columns {', '.join(keys)}")
    rated = one_scale({key: [look_up(row, key)] for key in keys})
    return _group(row, _prompt(row), [response], rated, finished_of_row(row, 1))


def unpaired(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read the unpaired rows of KTO: prompt, completion and label, true for a desirable one; or messages and label.

    All rows of one prompt are one group.
    """
    key = rating_key or "label"
    label = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}.get(
        str(required(row, key)).strip().lower()
    )
    if label is None:
        raise UnusableRow(QuarantineReason.BAD_RATING, f"{key} {row[key]!r} is neither true nor false")
    prompt, completion = _prompt(row), first_of(row, ("completion", "response"))
    if completion is None:  # LLaMA-Factory's layout: the dialogue with its response
        prompt, completion = None, prompt
    return _group(row, prompt, [completion], Ratings([label], key), finished_of_row(row, 1))


def _columns(*alternatives: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in alternatives)


def _products(*names: Sequence[str]) -> tuple[frozenset[str], ...]:
    return tuple(map(frozenset, itertools.product(*names)))


# In the order in which they are looked for: what says more about the responses comes first.
FORMATS: dict[str, Format] = {
    "simpo": Format(simpo, _columns("all_generated_responses all_rm_scores")),
    "distilabel": Format(distilabel, _columns("generations ratings", "generations rating")),
    "nectar": Format(nectar, _columns("prompt answers")),
    "nemo_rl": Format(nemo_rl, _columns("context completions")),
    "ultrafeedback": Format(ultrafeedback, _columns("instruction completions")),
    "rated": Format(rated, _products(PROMPTS, RESPONSES, RATINGS), _products(PROMPTS, RESPONSES)),
    "helpsteer3": Format(
        helpsteer3, _columns("response1 response2 overall_preference", "response_1 response_2 preference_strength")
    ),
    "safe_rlhf": Format(
        safe_rlhf, _columns("response_0 response_1 better_response_id", "response_0 response_1 safer_response_id")
    ),
    "sharegpt": Format(sharegpt, _columns("conversations chosen rejected")),
    "alpaca": Format(alpaca, _columns("instruction chosen rejected")),
    "trl": Format(trl, _columns("chosen rejected")),
    "hh_rlhf": Format(hh_rlhf, ()),
    "unpaired": Format(unpaired, _columns("completion label", "response label", "messages label"), rows=Rows.ALL),
    "helpsteer2": Format(
        helpsteer2,
        (*_columns("prompt response helpfulness"), *_products(PROMPTS, SINGLE, RATING_NAMES)),
        _products(PROMPTS, ("response", "completion")),
        rows=Rows.CONSECUTIVE,
    ),
}


def sniff(row: Row) -> str | None:
    """Return the name of the format that a row's columns show, null ones counting last; None where they show none."""
    if all(is_transcript(row.get(name)) for name in ("chosen", "rejected")) and not _holds(row.get("prompt")):
        return "hh_rlhf"
    there = frozenset(name for name, value in row.items() if value is not None)
    return _format_of_columns(there) or _format_of_columns(frozenset(row))


@cache
def _format_of_columns(columns: frozenset[str]) -> str | None:
    for alternatives in ("columns", "weak_columns"):
        for name, known in FORMATS.items():
            if any(needed <= columns for needed in getattr(known, alternatives)):
                return name
    return None


def unknown_format(row: Row) -> UnusableRow:
    """Return what to say of a row whose columns show no format."""
    return UnusableRow(
        QuarantineReason.UNKNOWN_FORMAT,
        f"columns {', '.join(sorted(map(str, row)))} fit no known format: say which column is which with `columns`, "
        f"as in `columns: {{prompt: question, chosen: answer_a, rejected: answer_b}}`; known are {', '.join(FORMATS)}",
    )


def rename_columns(row: Row, columns: Mapping[Any, str | None]) -> Row:
    """Return a row with the columns of a mapping under the names that formats know.

    Args:
        row: The row.
        columns: By known name, the row's own, which may be dotted; null for a column that is not to be read.

    Raises:
        UnusableRow: The row has no such column, or ranks, of which the lowest is best, are named as ratings.
    """
    renamed = {name: value for name, value in row.items() if name not in columns.values()}
    for known, own in columns.items():
        renamed.pop(known, None)
        if own is None:
            continue
        if own.split(".")[0] not in row and own not in row:
            detail = f"no column {own}, which `columns` names as {known}; the row has {', '.join(map(str, row))}"
            raise UnusableRow(QuarantineReason.MISSING_COLUMN, detail)
        if known in RANKS and is_rank(own):
            detail = f"`columns` names {own} as {known}, of which the highest is best: write `{RANKS[known]}: {own}`"
            raise UnusableRow(QuarantineReason.BAD_RATING, detail)
        renamed[known] = look_up(row, own)
    named = {known for known, own in columns.items() if own is not None}
    if named & {*RATINGS, *RATING_NAMES}:  # the row's other ratings are not the ones that were asked for
        renamed = {name: v for name, v in renamed.items() if name in named or name not in (*RATINGS, *RATING_NAMES)}
    return renamed


def _prompt(row: Row, names: Sequence[str] = PROMPTS) -> list[Message] | None:
    """Return the explicit prompt with the turns before it, or None."""
    name = next((name for name in names if _holds(row.get(name))), None)
    messages = None if name is None else read_dialogue(row[name], name)
    for other in ("messages", "conversations"):
        if messages is not None and name != other and _holds(row.get(other)):
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
            if not _holds(text) or (other == "context" and not isinstance(text, str)):
                continue
            text = text_of(text, other)
            on_its_own = rf"(?:^|\n|:\s){re.escape(text.strip())}\s*(?:\n|$)"
            if name == "instruction" or not re.search(on_its_own, messages[-1]["content"]):
                messages[-1]["content"] += f"\n{text}"
    if _holds(row.get("history")):
        messages = [*read_history(row["history"]), *(messages or [])]
    return messages


def _without_answer(messages: list[Message]) -> list[Message]:
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _check_prompt_columns(row: Row, messages: Sequence[Message]) -> None:
    """Check that every column that may be the prompt is part of the prompt that was read.

    Raises:
        UnusableRow: One holds other text; says which.
    """
    read = " ".join(" ".join(message["content"] for message in messages).split())
    for name in ("context", *PROMPTS):
        value = row.get(name)
        if not _holds(value) or not (isinstance(value, str) or is_chat(value)):
            continue
        for message in _without_answer(read_dialogue(value, name)):
            if " ".join(message["content"].split()) not in read:
                detail = f"column {name} holds text that is not in the prompt that was read from the other columns"
                left_out = f"`columns: {{{name}: null}}` leaves it out"
                raise UnusableRow(QuarantineReason.BAD_DIALOGUE, f"{detail}; {left_out}")


def _holds(value: Any) -> bool:
    return value is not None and value != "" and not (is_list(value) and len(value) == 0)


def _several(value: Any) -> list[Any]:
    """Return the responses that `chosen` or `rejected` holds: one text, message or chat, or a list of responses."""
    if not is_list(value) or (is_chat(value) and not _only_answers(value)):
        return [value]
    return list(value)


def _rated_each(row: Row, n: int) -> bool:
    """Say whether a row has a list of ratings for `n` chosen responses."""
    lists = [value for name, value in row.items() if "chosen" in str(name).lower() and name != "chosen"]
    return any(is_list(value) and len(value) == n for value in lists)


def _only_answers(messages: Sequence[Mapping[str, Any]]) -> bool:
    roles = [ROLES.get(str(message.get("role") or message.get("from")).lower()) for message in messages]
    return len(messages) > 1 and set(roles) == {"assistant"}


def _rated(
    row: Row,
    name: str,
    rating_key: str | None,
    keys: Sequence[str] = RATING_NAMES,
    prompts: Sequence[str] = PROMPTS,
) -> RawGroup:
    """Read responses and their ratings.

    Args:
        row: The row.
        name: Its list of texts, chats, or objects with a text.
        rating_key: The field of the rating, in the objects or the row.
        keys: Fields of the rating in objects, where there is no `rating_key`; in the row they are `RATINGS`.
        prompts: Columns of the prompt.
    """
    responses = as_list(required(row, name), name)
    texts = [r if not isinstance(r, Mapping) or is_chat(r) else first_of(r, _TEXT_KEYS) for r in responses]
    if responses and all(isinstance(r, Mapping) for r in responses) and all(text is None for text in texts):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"a response has none of the fields {', '.join(_TEXT_KEYS)}")
    keys = [rating_key] if rating_key else keys
    objects = [response for response in responses if isinstance(response, Mapping)]
    if any(look_up(response, key) is not None for response in objects for key in keys):
        ratings = rate_objects(responses, keys)
    else:
        ratings = _rating_lists(row, rating_key, len(responses))
    finished = finished_of_objects(responses) or finished_of_row(row, len(responses))
    return _group(row, _prompt(row, prompts), texts, ratings, finished)


def _rating_lists(row: Row, rating_key: str | None, n: int) -> Ratings:
    """Return the ratings of `n` responses that stand in a list of the row."""
    keys = [rating_key] if rating_key else RATINGS
    found = {key: parse(value) if isinstance(value := look_up(row, key), str) else value for key in keys}
    lists = {key: as_list(value, key) for key, value in found.items() if is_list(value)}
    if not lists:
        detail = f"no list of ratings in a column {' or '.join(keys)}, nor such a field of the responses"
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"{detail}: name the field with rating_key")
    for key, values in lists.items():
        if len(values) != n:
            raise UnusableRow(QuarantineReason.BAD_TYPE, f"{n} responses and {len(values)} {key}")
    return one_scale(lists)


def _group(
    row: Row,
    prompt: list[Message] | None,
    completions: Sequence[Any],
    rated: Ratings,
    finished: list[bool] | None,
    names: Sequence[str] = (),
) -> RawGroup:
    """Put a prompt and its responses together, and what is wrong with single responses in their place."""
    for name in ("images", "image", "tools", "audio", "videos"):
        if _holds(value := row.get(name)) and value != "[]":
            detail = f"column {name} is part of the prompt and not read; `columns: {{{name}: null}}` leaves it out"
            raise UnusableRow(QuarantineReason.NOT_TEXT, detail)
    responses: list[str | UnusableRow] = []
    ratings: list[float | None] = []
    contexts = []
    names = names or [f"response {number}" for number in range(1, len(completions) + 1)]
    open_transcript = any(is_transcript(row.get(name)) for name in PROMPTS)  # what follows it begins with a blank
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
    messages = with_system(row, join_context(prompt, contexts))
    _check_prompt_columns(row, messages)
    return RawGroup(messages, responses, ratings, finished=finished, rated_by=rated.by)
