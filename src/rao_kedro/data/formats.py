"""Formats of published preference data: one function per format, from a row to a raw prompt group.

Knows nothing about files. To add a format, add a function and an entry of `FORMATS`, and its name to `FormatName` in
`config/data_engineering.py`. `sniff` knows a format by its columns, `hh_rlhf` by its transcripts.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from rao_kedro.data.columns import PROMPTS, RATINGS, RESPONSES, SINGLE
from rao_kedro.data.fields import Row, find_first, is_filled, look_up, require
from rao_kedro.data.finished import read_finished_of_objects, read_finished_of_pair, read_finished_of_row
from rao_kedro.data.messages import is_chat, is_transcript
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.ratings import RATING_NAMES, Ratings, choose_ratings, rate_pair, read_ratings
from rao_kedro.data.raw_groups import (
    RawGroup,
    assemble_group,
    has_rating_each,
    list_responses,
    read_prompt,
    read_responses,
)


class Rows(StrEnum):
    """Which rows form one prompt group."""

    ONE = "one"
    CONSECUTIVE = "consecutive"
    ALL = "all"


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        read: Turns a row and the parameter `rating_key` into a group; it has one response if several rows form a group.
        columns: Sets of columns; a row that has all columns of one set is of this format.
        weak_columns: The same, tried after the `columns` of all formats.
        rows: Which rows form one group: each row, consecutive rows of one prompt, or all rows of one prompt.
    """

    read: Callable[..., RawGroup]
    columns: tuple[frozenset[str], ...]
    weak_columns: tuple[frozenset[str], ...] = ()
    rows: Rows = Rows.ONE


def read_trl(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read TRL's preference format: prompt, chosen, rejected, as text or as chats, the prompt explicit or implicit.

    Chosen and rejected may continue the prompt with turns that both share, and may be lists of several responses.
    Ratings are fields such as `score_chosen` and `chosen-rating`, in the row or in its `metadata`; without them, 1 and
    0. Also reads the binarised UltraFeedback of HuggingFaceH4, whose chosen and rejected chats repeat the prompt.
    """
    chosen, rejected = list_responses(require(row, "chosen")), list_responses(require(row, "rejected"))
    if len(chosen) > 1 and is_chat(row["chosen"]) and not has_rating_each(row, len(chosen)):
        chosen = [row["chosen"]]  # one response of several messages
    rated = rate_pair(row, rating_key, len(chosen), len(rejected))
    finished = read_finished_of_pair(row, len(chosen), len(rejected))
    if (of_messages := read_finished_of_objects([*chosen, *rejected])) is not None:
        finished = [all(both) for both in zip(of_messages, finished or of_messages, strict=True)]
    names = ["chosen"] * len(chosen) + ["rejected"] * len(rejected)
    prompt = read_prompt(row)
    if (
        prompt
        and prompt[-1]["role"] == "assistant"
        and not is_filled(row.get("prompt"))
        and is_filled(row.get("messages"))
    ):
        prompt = None  # not the prompt, but the dialogue with one of the responses
    return assemble_group(row, prompt, [*chosen, *rejected], rated, finished, names)


def read_hh_rlhf(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read Anthropic's transcripts; the prompt is what chosen and rejected share up to the last answer."""
    for name in ("chosen", "rejected"):
        if not is_transcript(require(row, name)):
            detail = 'it must start with "\\n\\nHuman:" and end with an answer after "\\n\\nAssistant:"'
            raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is not a transcript: {detail}")
    return read_trl(row, rating_key)


def read_alpaca(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read LLaMA-Factory's alpaca layout: instruction, input, chosen, rejected, system, history."""
    require(row, "instruction")
    return read_trl(row, rating_key)


def read_sharegpt(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read LLaMA-Factory's ShareGPT layout: conversations of from and value, and two single messages."""
    require(row, "conversations")
    return read_trl(row, rating_key)


def read_ultrafeedback(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read openbmb's UltraFeedback: an instruction and completions with their scores.

    The rating is `rating_key`, for example `annotations.helpfulness.Rating`. Without it, a group is rated by the first
    of these that all its completions have: the fine-grained score (mean of the aspects), the overall score, the mean
    of the aspects' ratings.
    """
    keys = ("fine-grained_score", "overall_score", "annotations.*.Rating", *RATING_NAMES)
    return read_responses(row, "completions", rating_key, keys)


def read_nectar(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read Nectar: a transcript and its answers, each with its rank."""
    return read_responses(row, "answers", rating_key, ("rank", *RATING_NAMES))


def read_nemo_rl(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read NeMo RL's preference data: context, and completions that are messages with a rank."""
    return read_responses(row, "completions", rating_key, ("rank", *RATING_NAMES), prompts=("context",))


def read_simpo(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read SimPO's files: all_generated_responses with all_rm_scores; chosen and rejected are two of them."""
    return read_responses(row, "all_generated_responses", rating_key)


def read_distilabel(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read distilabel's tables: instruction, generations, ratings (in older ones `rating`)."""
    return read_responses(row, "generations", rating_key)


def read_rated(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read a prompt with any number of rated responses.

    Responses are texts or chats beside a list of ratings (`rating_key`, or `ratings`, `scores`, `ranks` ...), or
    objects with a text (text, response, content, output, answer or completion) and a rating (`rating_key`, or rating,
    score ...).
    """
    name = next((name for name in RESPONSES if row.get(name) is not None), "responses")
    return read_responses(row, name, rating_key, prompts=("messages", *PROMPTS))


def read_helpsteer3(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read HelpSteer3's pairs: context, response1, response2, and overall_preference from -3 (the first) to 3.

    Also HelpSteer2's: prompt, response_1, response_2, preference_strength.
    """
    names = ("response1", "response2") if row.get("response1") is not None else ("response_1", "response_2")
    key = rating_key or ("overall_preference" if row.get("overall_preference") is not None else "preference_strength")
    [preference] = read_ratings(key, [require(row, key)]).values
    if not isinstance(preference, float):
        raise preference or UnusableRow(QuarantineReason.UNRATED_RESPONSE, f"{key} is empty")
    rated = Ratings([-preference / 2, preference / 2], key)
    return assemble_group(
        row,
        read_prompt(row, ("context", *PROMPTS)),
        [require(row, name) for name in names],
        rated,
        read_finished_of_row(row, 2),
    )


def read_safe_rlhf(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read PKU-SafeRLHF: response_0, response_1, and the better one's number in better_response_id.

    With `rating_key: safer_response_id`, the safer response is preferred.
    """
    key = rating_key or "better_response_id"
    better = str(require(row, key)).strip().removesuffix(".0")
    if better not in ("0", "1"):
        raise UnusableRow(QuarantineReason.BAD_RATING, f"{key} is {better}, neither 0 nor 1")
    rated = Ratings([float(better == "0"), float(better == "1")], key)
    responses = [require(row, name) for name in ("response_0", "response_1")]
    return assemble_group(row, read_prompt(row), responses, rated, read_finished_of_row(row, 2))


def read_helpsteer2(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read HelpSteer2: one response per row; the rating is the attribute `rating_key`, by default helpfulness.

    Also reads tables of prompt, response, and rating or score. Consecutive rows of one prompt form one group.
    """
    keys = [rating_key] if rating_key else ["helpfulness", *RATING_NAMES]
    response = row.get(next((name for name in SINGLE if row.get(name) is not None), SINGLE[0]))
    if not any(key in row or look_up(row, key) is not None for key in keys):
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no rating: none of the columns {', '.join(keys)}")
    rated = choose_ratings({key: [look_up(row, key)] for key in keys})
    return assemble_group(row, read_prompt(row), [response], rated, read_finished_of_row(row, 1))


def read_unpaired(row: Row, rating_key: str | None = None) -> RawGroup:
    """Read the unpaired rows of KTO: prompt, completion and label, true for a desirable one; or messages and label.

    All rows of one prompt form one group.
    """
    key = rating_key or "label"
    label = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}.get(
        str(require(row, key)).strip().lower()
    )
    if label is None:
        raise UnusableRow(QuarantineReason.BAD_RATING, f"{key} {row[key]!r} is neither true nor false")
    prompt, completion = read_prompt(row), find_first(row, ("completion", "response"))
    if completion is None:  # LLaMA-Factory's layout: the dialogue with its response
        prompt, completion = None, prompt
    return assemble_group(row, prompt, [completion], Ratings([label], key), read_finished_of_row(row, 1))


def _columns(*alternatives: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in alternatives)


def _products(*names: Sequence[str]) -> tuple[frozenset[str], ...]:
    return tuple(map(frozenset, itertools.product(*names)))


# In the order in which they are tried: formats with more information about the responses come first.
FORMATS: dict[str, Format] = {
    "simpo": Format(read_simpo, _columns("all_generated_responses all_rm_scores")),
    "distilabel": Format(read_distilabel, _columns("generations ratings", "generations rating")),
    "nectar": Format(read_nectar, _columns("prompt answers")),
    "nemo_rl": Format(read_nemo_rl, _columns("context completions")),
    "ultrafeedback": Format(read_ultrafeedback, _columns("instruction completions")),
    "rated": Format(read_rated, _products(PROMPTS, RESPONSES, RATINGS), _products(PROMPTS, RESPONSES)),
    "helpsteer3": Format(
        read_helpsteer3, _columns("response1 response2 overall_preference", "response_1 response_2 preference_strength")
    ),
    "safe_rlhf": Format(
        read_safe_rlhf, _columns("response_0 response_1 better_response_id", "response_0 response_1 safer_response_id")
    ),
    "sharegpt": Format(read_sharegpt, _columns("conversations chosen rejected")),
    "alpaca": Format(read_alpaca, _columns("instruction chosen rejected")),
    "trl": Format(read_trl, _columns("chosen rejected")),
    "hh_rlhf": Format(read_hh_rlhf, ()),
    "unpaired": Format(read_unpaired, _columns("completion label", "response label", "messages label"), rows=Rows.ALL),
    "helpsteer2": Format(
        read_helpsteer2,
        (*_columns("prompt response helpfulness"), *_products(PROMPTS, SINGLE, RATING_NAMES)),
        _products(PROMPTS, ("response", "completion")),
        rows=Rows.CONSECUTIVE,
    ),
}


def sniff(row: Row) -> str | None:
    """Return the name of a row's format, from its columns that are not null, else from all columns; None if unknown."""
    if all(is_transcript(row.get(name)) for name in ("chosen", "rejected")) and not is_filled(row.get("prompt")):
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
    """Return the error of a row whose columns fit no format."""
    return UnusableRow(
        QuarantineReason.UNKNOWN_FORMAT,
        f"columns {', '.join(sorted(map(str, row)))} fit no known format: name your columns with `columns`, "
        f"as in `columns: {{prompt: question, chosen: answer_a, rejected: answer_b}}`; known are {', '.join(FORMATS)}",
    )
