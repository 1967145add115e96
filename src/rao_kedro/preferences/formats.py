"""What published preference data look like: one function per format, from a row to a prompt group.

Knows nothing about files. A format is added by adding a function and a line to `FORMATS`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rao_kedro.errors import DataError
from rao_kedro.preferences.quarantine import QuarantineReason, UnusableRow

Message = dict[str, str]
Row = Mapping[str, Any]

_TEXT_KEYS = ("text", "response", "content", "output")
_TURN = re.compile(r"\n\n(Human|Assistant):", re.UNICODE)


@dataclass
class RawGroup:
    """A prompt and its responses as a row gave them, not checked yet.

    Attributes:
        messages: The dialogue up to the last message of the user.
        responses: K texts.
        ratings: Of each response; None where it has none.
        requirements: JSON list of the prompt's checkable requirements.
        finished: Per response, False where it was cut before its end; None where all are finished.
    """

    messages: list[Message]
    responses: list[str]
    ratings: list[float | None]
    requirements: str = field(default="[]")
    finished: list[bool] | None = None


def trl(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read TRL's preference format: prompt, chosen, rejected, as text or as chats, the prompt explicit or implicit.

    Ratings are `score_chosen` and `score_rejected`, in the row or in its `metadata`; without scores, 1 and 0.
    Also reads the binarised UltraFeedback of HuggingFaceH4, whose chosen and rejected chats repeat the prompt.
    """
    chosen, rejected = _get(row, "chosen"), _get(row, "rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if "prompt" not in row:
            raise UnusableRow(QuarantineReason.MISSING_COLUMN, "plain chosen and rejected need a column prompt")
        messages, responses = _prompt(row["prompt"]), [chosen, rejected]
    else:
        chats = [_chat(chosen, "chosen"), _chat(rejected, "rejected")]
        explicit = row.get("prompt")
        if len(chats[0]) == len(chats[1]) == 1 and explicit:
            messages = _prompt(explicit)
        else:
            if chats[0][:-1] != chats[1][:-1]:
                raise UnusableRow(
                    QuarantineReason.DIFFERENT_PROMPTS, "chosen and rejected differ before their last message"
                )
            messages = chats[0][:-1]
        responses = [chat[-1]["content"] for chat in chats]
    scores = row if "score_chosen" in row else row.get("metadata") or {}
    if "score_chosen" in scores and "score_rejected" in scores:
        return RawGroup(messages, responses, [_rating(scores[f"score_{name}"]) for name in ("chosen", "rejected")])
    return RawGroup(messages, responses, [1.0, 0.0])


def ultrafeedback(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read openbmb's UltraFeedback: an instruction and completions with their scores.

    The rating is `rating_key`, or the fine-grained score (mean of the aspects), or the overall score.
    """
    completions = _list(row, "completions")
    keys = [rating_key] if rating_key else ["fine-grained_score", "overall_score"]
    return RawGroup(
        _prompt(_get(row, "instruction")),
        [str(_get(completion, "response")) for completion in completions],
        [_rating(next((c[key] for key in keys if c.get(key) is not None), None)) for c in completions],
    )


def hh_rlhf(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read Anthropic's transcripts; the prompt is what chosen and rejected share up to the last answer."""
    turns = [_turns(str(_get(row, name))) for name in ("chosen", "rejected")]
    if turns[0][:-1] != turns[1][:-1]:
        raise UnusableRow(QuarantineReason.DIFFERENT_PROMPTS, "chosen and rejected differ before the last answer")
    return RawGroup(turns[0][:-1], [turn[-1]["content"] for turn in turns], [1.0, 0.0])


def rated(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read a prompt with any number of rated responses.

    The prompt is `messages`, `prompt` or `instruction`; responses are texts beside a list `ratings`, or objects with
    a text (text, response, content or output) and a rating (`rating_key`, or rating or score).
    """
    prompt = next((row[name] for name in ("messages", "prompt", "instruction") if row.get(name) is not None), None)
    if prompt is None:
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, "no column messages, prompt or instruction")
    responses = _list(row, "responses")
    if responses and isinstance(responses[0], str):
        ratings = _list(row, rating_key or "ratings")
        if len(ratings) != len(responses):
            detail = f"{len(responses)} responses and {len(ratings)} ratings"
            raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
        return RawGroup(_prompt(prompt), list(responses), [_rating(value) for value in ratings])
    keys = [rating_key] if rating_key else ["rating", "score"]
    texts, ratings = [], []
    for response in responses:
        if not isinstance(response, Mapping) or (text := _first(response, _TEXT_KEYS)) is None:
            raise UnusableRow(QuarantineReason.BAD_TYPE, f"a response has none of the fields {', '.join(_TEXT_KEYS)}")
        texts.append(str(text))
        ratings.append(_rating(_first(response, keys)))
    if texts and all(rating is None for rating in ratings):
        detail = f"no response has a field {' or '.join(keys)}: name it with rating_key"
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, detail)
    return RawGroup(_prompt(prompt), texts, ratings)


FORMATS: dict[str, Callable[..., RawGroup]] = {
    "trl": trl,
    "ultrafeedback": ultrafeedback,
    "hh_rlhf": hh_rlhf,
    "rated": rated,
}


def sniff(row: Row, file: str) -> str:
    """Return the name of the format that a row's columns show.

    Raises:
        DataError: No format has these columns; names the file and the columns that each format needs.
    """
    columns = set(row)
    if {"chosen", "rejected"} <= columns:
        transcript = "prompt" not in columns and str(row["chosen"]).lstrip().startswith("Human:")
        return "hh_rlhf" if transcript else "trl"
    if {"instruction", "completions"} <= columns:
        return "ultrafeedback"
    if "responses" in columns and columns & {"messages", "prompt", "instruction"}:
        return "rated"
    raise DataError(
        f"{file}: columns {', '.join(sorted(columns))} fit no known format. Known are trl (prompt, chosen, rejected), "
        "ultrafeedback (instruction, completions), hh_rlhf (chosen and rejected transcripts) and rated (prompt, "
        "responses, ratings): rename the columns or write the rows in one of these"
    )


def _get(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no column {name}")
    return row[name]


def _first(row: Row, names: tuple[str, ...] | list[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _list(row: Row, name: str) -> list[Any]:
    value = _get(row, name)
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is not a list")
    return list(value)


def _rating(value: Any) -> float | None:
    if value is None or value == "N/A":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"rating {value!r} is not a number") from None


def _prompt(value: Any) -> list[Message]:
    return [{"role": "user", "content": value}] if isinstance(value, str) else _chat(value, "prompt")


def _chat(value: Any, name: str) -> list[Message]:
    messages = [] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    if not messages or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in messages):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is neither a text nor a list of role and content")
    return [{"role": str(message["role"]), "content": str(message["content"])} for message in messages]


def _turns(transcript: str) -> list[Message]:
    start, *parts = _TURN.split(transcript)
    if start.strip() or not parts or parts[-2] != "Assistant":
        detail = 'a transcript starts with "\\n\\nHuman:" and ends with an answer after "\\n\\nAssistant:"'
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    roles = {"Human": "user", "Assistant": "assistant"}
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": roles[speaker], "content": text.strip()} for speaker, text in pairs]
