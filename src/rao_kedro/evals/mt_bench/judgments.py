"""What MT-Bench's judge writes: a score in brackets, or the letter of the better assistant (FastChat's `llm_judge`)."""

import re
from typing import Literal

Winner = Literal["a", "b", "tie"]

SCORES = (1.0, 10.0)  # the scale
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
