"""Reads what judges write: a score on a scale, a rating in brackets, or which of two outputs is better.

| who asks | reading |
| --- | --- |
| a generative reward | `read_score_on_scale`: a digit, or its expectation over the score tokens |
| MT-Bench | `parse_score` and `parse_winner`, as FastChat's `llm_judge`; `combine_orders` |
| AlpacaEval | `read_first_token` (log-probs) and `read_last_line` (text) |

Knows nothing of what judges are asked, or how.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal

from rao_kedro.judges.replies import Answer

Winner = Literal["a", "b", "tie"]

# of generative rewards
VERDICT = re.compile(r"^[^\w\n]*Score:(.*)", re.MULTILINE | re.IGNORECASE)
FIRST_LINE = re.compile(r"\s*(.*)")
DIGIT = re.compile("[0-9]")

# of MT-Bench
MT_BENCH_SCALE = (1.0, 10.0)
_ON_SCALE = r"(?:10(?:\.0*)?|[1-9](?:\.\d*)?)"
# After a word, double brackets index a list: `x[[1]]`.
SCORE = re.compile(rf"(?<!\w)\[\[({_ON_SCALE})\]\]")
# Single brackets also cite and index. They hold a score after `Rating:`, or alone on their line.
SCORE_IN_SINGLE_BRACKETS = re.compile(
    rf"""
      \b(?:rating|score)\b(?:\s+is)?[\s:=*_]+\[(?P<stated>{_ON_SCALE})\](?!\()
    | ^[\s*_]*\[(?P<alone>{_ON_SCALE})\][\s*_.]*$
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
WINNER = re.compile(r"(?<!\w)\[\[([ABC])\]\]")
WINNERS: dict[str, Winner] = {"A": "a", "B": "b", "C": "tie"}
_OTHER_ORDER: dict[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}

# of AlpacaEval
NAME = re.compile(r"\W*([mM])\W*")


def read_score_on_scale(
    answer: Answer, lowest: int, highest: int, reasoning: bool, read: Literal["expectation", "text"]
) -> tuple[float, str]:
    """Return the score of a generative reward's judge and an empty string, or NaN and why there is none.

    The expectation is G-Eval's (Liu et al. 2023, eq. 1), `sum_s s p(s)`: s runs over the scores among the most likely
    tokens at the score's position, and their probabilities are normalised to sum to 1.

    Args:
        answer: What the judge wrote.
        lowest: Lowest score, a single digit.
        highest: Highest score, a single digit.
        reasoning: The judge argues before the line `Score: N`. Otherwise the score is on the first line, and the rest
            of the reply may be cut.
        read: The expectation over the probabilities of the score tokens, or the score in the text.
    """
    if why := answer.failure(complete=reasoning):
        return math.nan, why
    if (position := _find_score(answer.text, lowest, highest, reasoning)) is None:
        return math.nan, f"the judge gave no score: {answer.text[:200]!r}"
    if read == "text":
        return float(answer.text[position]), ""
    score = _expected_score(_alternatives(answer, position), lowest, highest)
    return score, f"there are no log-probs of the score in {answer.text[:200]!r}" if math.isnan(score) else ""


def _find_score(text: str, lowest: int, highest: int, reasoning: bool) -> int | None:
    """Return the index of the score in the text: in the last verdict, or alone on the first line.

    Return None if there is none on the scale. The line may have no other number than the top of the scale: neither
    `7.5` nor `7/10` is a 7.
    """
    verdicts = [*VERDICT.finditer(text)]
    line = verdicts[-1] if verdicts else FIRST_LINE.match(text)
    if line is None or (reasoning and not verdicts):
        return None
    score = rf"[^\w-]*([{lowest}-{highest}])(?:\s*(?:/|out of)\s*{highest})?"
    found = re.compile(score + (r"\D*" if verdicts else r"\W*")).fullmatch(text, *line.span(1))
    return found.start(1) if found else None


def _alternatives(answer: Answer, position: int) -> Mapping[str, float]:
    """Return the log-probs of the token with the digit at a position of the text; empty if it is not found.

    Digits are counted from the end: the tokens before the text may be hidden reasoning, and their spaces and bytes may
    differ from the text's.
    """
    remaining = len(DIGIT.findall(answer.text[position:]))
    for token in reversed(answer.tokens):
        remaining -= len(DIGIT.findall(token.text))
        if remaining <= 0:
            return token.logprobs if answer.text[position] in token.text else {}
    return {}


def _expected_score(logprobs: Mapping[str, float], lowest: int, highest: int) -> float:
    scale = {str(score) for score in range(lowest, highest + 1)}
    weights = [(int(text), math.exp(logp)) for text, logp in logprobs.items() if text.strip() in scale]
    total = math.fsum(weight for _, weight in weights)
    return math.fsum(score * weight for score, weight in weights) / total if total else math.nan


def parse_score(judgment: str) -> float | None:
    """Return the last score from 1 to 10 in a judgment, `[[score]]` before `[score]`; None without one."""
    if in_double := SCORE.findall(judgment):
        return float(in_double[-1])
    in_single = [*SCORE_IN_SINGLE_BRACKETS.finditer(judgment)]
    return float(in_single[-1]["stated"] or in_single[-1]["alone"]) if in_single else None


def parse_winner(judgment: str) -> Winner | None:
    """Return whom the last verdict of a comparison prefers; None without one."""
    verdicts = WINNER.findall(judgment)
    return WINNERS[verdicts[-1]] if verdicts else None


def combine_orders(first: Winner | None, swapped: Winner | None) -> Winner | None:
    """Return the winner of a comparison that was judged in both orders.

    Args:
        first: The verdict on (a, b).
        swapped: The verdict on (b, a), which calls b "a".

    Returns:
        The winner; a tie where the orders disagree; None where a verdict is missing.
    """
    if first is None or swapped is None:
        return None
    return first if first == _OTHER_ORDER[swapped] else "tie"


def read_first_token(answer: Answer) -> float:
    """Read a preference from the log-probs of the first token, as `logprob_parser` of the package `alpaca_eval` does.

    Returns:
        `2 - p(m) / (p(m) + p(M))`: 1 where the judge is sure of the output shown first, `m`, and 2 of the other; NaN
        where it named neither.
    """
    from scipy.special import logsumexp  # a slow import, which `kedro` commands need not pay

    logprobs = answer.tokens[0].logprobs if answer.tokens else {}
    first, second = (logprobs.get(name, -math.inf) for name in ("m", "M"))
    if max(first, second) == -math.inf:
        return math.nan
    return 2 - math.exp(first - float(logsumexp([first, second])))


def read_last_line(answer: Answer) -> float:
    """Read a preference from the last line of the judge's text.

    Returns:
        1 where it names the output shown first, 2 for the other; NaN where it names neither.
    """
    lines = answer.text.strip().splitlines()
    named = NAME.fullmatch(lines[-1]) if lines else None
    return {"m": 1.0, "M": 2.0}[named.group(1)] if named else float("nan")
