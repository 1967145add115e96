"""Rule-based rewards: checkable requirements of a prompt, each scored in [0, 1] with partial credit.

Partial credit ranks responses that all miss a requirement, so that the best and the worst of a few samples differ.
To add a check, write a function with `@check`. No package is imported until a check of mathematics runs.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rao_kedro.errors import ParameterError
from rao_kedro.models.thinking import split_thinking

Check = Callable[..., float]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its own name."""
    CHECKS[function.__name__] = function
    return function


def score_response(response: str, requirements: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean of the requirements' scores, in [0, 1]; an empty answer and unfinished thinking score 0.

    Args:
        response: The text; checks read the answer after the thinking.
        requirements: For example `[{"check": "max_words", "limit": 20}, {"check": "no_commas"}]`.

    Raises:
        ParameterError: There is no requirement, a check does not exist, or it does not take these arguments.
    """
    if not requirements:
        raise ParameterError("a prompt without requirements cannot be scored by rules")
    bound = [_bound(requirement) for requirement in requirements]
    answer = (split_thinking(response).answer or "").strip()
    return sum(check(answer) for check in bound) / len(bound) if answer else 0.0


def score_responses(responses: Sequence[str], requirements: str) -> list[float] | None:
    """Return the score of each response, or None where a prompt has no requirements.

    Args:
        responses: The texts.
        requirements: JSON list, as in the catalog's tables.
    """
    parsed = json.loads(requirements)
    return [score_response(response, parsed) for response in responses] if parsed else None


def _bound(requirement: Mapping[str, Any]) -> Callable[[str], float]:
    arguments = {name: value for name, value in requirement.items() if name != "check"}
    name = requirement.get("check")
    if name not in CHECKS:
        raise ParameterError(f"there is no check {name!r}; known are {', '.join(sorted(CHECKS))}")
    function = CHECKS[name]
    try:
        inspect.signature(function).bind("", **arguments)
    except TypeError as error:
        raise ParameterError(f"check {name}: {error}; it takes {inspect.signature(function)}") from None
    return lambda response: function(response, **arguments)


def words(text: str) -> list[str]:
    """Split text into words: runs of letters, digits, apostrophes and hyphens."""
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text)


def sentences(text: str) -> list[str]:
    """Split text into sentences: at `.`, `!` or `?` before white space or the end, and at line breaks."""
    return [part for part in re.split(r"(?<=[.!?])[\"')\]]*\s+|\n+", text.strip()) if words(part)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _near(count: int, wanted: int) -> float:
    """Return 1 minus the relative distance from the wanted count, and at least 0."""
    return max(0.0, 1 - abs(count - wanted) / wanted)


def _mean(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


@check
def max_words(response: str, limit: int) -> float:
    """Return 1 up to `limit` words; above, the score falls linearly to 0 at twice the limit."""
    return min(1.0, max(0.0, 2 - len(words(response)) / limit))


@check
def min_words(response: str, limit: int) -> float:
    """Return the number of words as a share of `limit`, at most 1."""
    return min(1.0, len(words(response)) / limit)


@check
def exact_words(response: str, count: int) -> float:
    """Score the number of words."""
    return _near(len(words(response)), count)


@check
def exact_sentences(response: str, count: int) -> float:
    """Score the number of sentences."""
    return _near(len(sentences(response)), count)


@check
def max_sentences(response: str, limit: int) -> float:
    """Return 1 up to `limit` sentences; above, the score falls linearly to 0 at twice the limit."""
    return min(1.0, max(0.0, 2 - len(sentences(response)) / limit))


@check
def contains(response: str, keywords: Sequence[str]) -> float:
    """Return the share of the keywords that occur as whole words, in any case."""
    return _mean([re.search(rf"\b{re.escape(k)}\b", response, re.IGNORECASE) is not None for k in keywords])


@check
def avoids(response: str, keywords: Sequence[str]) -> float:
    """Return the share of the keywords that do not occur as whole words."""
    return 1 - contains(response, keywords)


@check
def starts_with(response: str, text: str) -> float:
    """Return 1 if the response starts with `text`, in any case."""
    return float(response.lower().startswith(text.lower()))


@check
def ends_with(response: str, text: str) -> float:
    """Return 1 if the response ends with `text`, in any case."""
    return float(response.lower().endswith(text.lower()))


@check
def answer(response: str, accepted: Sequence[str]) -> float:
    """Return 0.5 to 1 if the response names an accepted answer, in any case, else 0.

    The answer alone scores 1; each other word lowers the score, down to 0.5 for 20 or more words.
    """
    if not any(re.search(rf"(?<!\w){re.escape(a)}(?!\w)", response, re.IGNORECASE) for a in accepted):
        return 0.0
    extra = len(words(response)) - max(len(words(a)) for a in accepted)
    return 1 - 0.5 * min(1.0, max(0, extra) / 20)


@check
def math_answer(response: str, expected: str) -> float:
    """Return 1 if math-verify finds the response's last answer equal to `expected`, else 0.

    Args:
        response: The text; the answer may be a number, LaTeX, or boxed.
        expected: A number or LaTeX, without dollar signs.
    """
    from math_verify import parse, verify

    if not (gold := parse(f"${expected}$")):
        raise ParameterError(f"check math_answer: {expected!r} is neither a number nor LaTeX")
    return float(verify(gold, parse(response)))


@check
def lowercase(response: str) -> float:
    """Return 1 if no letter is a capital, else half the share of words without a capital."""
    found = [word == word.lower() for word in words(response)] or [True]
    return 1.0 if all(found) else 0.5 * _mean(found)


@check
def uppercase(response: str) -> float:
    """Return 1 if every letter is a capital, else half the share of words in capitals."""
    found = [word == word.upper() for word in words(response)] or [True]
    return 1.0 if all(found) else 0.5 * _mean(found)


@check
def no_commas(response: str) -> float:
    """Return 1 / (1 + the number of commas)."""
    return 1 / (1 + response.count(","))


@check
def bullet_points(response: str, count: int) -> float:
    """Score the number of lines that start with `-`, `*` or `•`, times their share of all lines."""
    lines = _lines(response)
    bullets = [line for line in lines if re.match(r"[-*•]\s+\S", line)]
    return _near(len(bullets), count) * len(bullets) / len(lines) if bullets else 0.0


@check
def numbered_list(response: str, count: int) -> float:
    """Score the number of lines that are numbered 1, 2, 3 ..., times their share of all lines."""
    lines = _lines(response)
    numbers = [int(match.group(1)) for line in lines if (match := re.match(r"(\d+)[.)]\s+\S", line))]
    in_order = sum(number == i for i, number in enumerate(numbers, start=1))
    return _near(in_order, count) * in_order / len(lines) if in_order else 0.0


@check
def comma_separated(response: str, count: int) -> float:
    """Score one line of `count` comma-separated items of at most four words each."""
    items = [item for item in response.rstrip(".").split(",") if item.strip()]
    short = [item for item in items if len(words(item)) <= 4]
    return _near(len(short), count) * len(short) / len(items) / len(_lines(response)) if short else 0.0


@check
def json_object(response: str, keys: Sequence[str]) -> float:
    """Return 1 for a JSON object with exactly these keys, 0.5 for any other JSON object, else 0."""
    try:
        value = json.loads(re.sub(r"^```(?:json)?|```$", "", response).strip())
    except json.JSONDecodeError:
        return 0.0
    if not isinstance(value, dict):
        return 0.0
    return 1.0 if set(value) == set(keys) else 0.5


@check
def quoted(response: str) -> float:
    """Return 1 if the whole response is in double quotes, 0.5 if only one end has a quote."""
    return ((response[:1] in '"“') + (response[-1:] in '"”')) / 2


@check
def question(response: str) -> float:
    """Return 1 / the number of sentences if the response ends with a question mark, else 0."""
    return response.endswith("?") / max(1, len(sentences(response)))
