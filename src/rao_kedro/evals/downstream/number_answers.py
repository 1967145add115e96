"""Extracts the number that a chain of thought ends with."""

import re
from decimal import Decimal
from fractions import Fraction

from rao_kedro.evals.downstream.statements import (
    COUNTERS,
    ENDS,
    bold_parts,
    breaks_off,
    clean,
    final_statements,
    first_sentence,
    is_placeholder,
    last_sentence,
    without_references,
)

SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

# A minus belongs to the number unless it follows something from which the number could be subtracted.
_NUMBER = (
    r"(?P<sign>(?<![\w)\]])[-\u2212])?(?:[$\u20ac\u00a3\u20b9](?P<minus>-)?)?"
    r"(?<![\w.])(?P<whole>\d{1,3}(?:,\d{3}){1,9}(?!\d)|\d{1,99})?(?P<part>\.\d{1,99})?(?<=\d)(?!\d)"
    r"(?: (?P<mixed>\d{1,9}/\d{1,9})| ?/ ?(?P<below>\d{1,9}))?"
    rf"(?:\s*(?P<scale>{'|'.join(SCALES)})\b)?"
)
NUMBER = re.compile(_NUMBER, re.IGNORECASE)
# `3 * 6 = 18` states 18.
RESULT = re.compile(rf"(?:[$(]*\d[\d.,$()\s+*/\u00d7\u00f7x%-]*[=\u2248]\s*)*(?P<number>{_NUMBER})", re.IGNORECASE)
WORD = re.compile(rf"(?P<word>{'|'.join(WORDS)})\b(?! of\b|-)", re.IGNORECASE)
# `There are 4 eggs in 2 days` states 4; in `There are 4 eggs, so 2 a day` the last number counts.
IS_NUMBER = re.compile(
    rf"\b(?:is|are|be|was|were)\s+(?:about |approximately |only |exactly )?{_NUMBER}(?!\s*[-+*/=])(?:(?! so )[^,;=])*$",
    re.IGNORECASE,
)
BOLD_NUMBER = re.compile(rf"(?:\w+ = )?{_NUMBER}(?!\.\s|\))[^\d]*", re.IGNORECASE)


def parse_number(text: str) -> str | None:
    """Return the normal form of a number, or None if the text is not a single number, perhaps with a unit.

    The normal form has no separators, currency signs or units: `$1,234.50` is `1234.5`, and `2/6` is `1/3`.
    """
    found = re.fullmatch(rf"\s*{_NUMBER}\s*[^\d]*", clean(text), re.IGNORECASE)
    return _written(found) if found else None


def extract_number(output: str) -> str | None:
    """Return the number that a chain of thought ends with, or None if it does not end with one.

    In this order: the last final statement (`#### 7`, `\\boxed{7}`, `The answer is 7.`), the last number in bold, the
    number after `is`, `are`, `was` or `be` in the last sentence with a number, the last number. The last two are not
    read if the text breaks off; if it ends without a full stop, they are read from its last line. Numbers of citations
    and indices (`[1]`, `arr[0]`) count only if a line has no other number.

    Args:
        output: The response.

    Returns:
        The number as `parse_number` writes it.
    """
    text = clean(output)
    for statement in reversed(final_statements(text)):
        if is_placeholder(statement.text):
            return None
        if (number := first_number(first_sentence(without_references(statement.text)))) is not None:
            return number
    for part in reversed(bold_parts(output)):
        if found := BOLD_NUMBER.fullmatch(part):
            return _written(found)
    if breaks_off(text):
        return None
    if not text.rstrip().endswith(ENDS):
        text = text.rstrip().rpartition("\n")[2]
    text = COUNTERS.sub(" ", without_references(text))
    numbers = list(NUMBER.finditer(text))
    if numbers and (found := IS_NUMBER.search(last_sentence(text[: numbers[-1].end()]))):
        return _written(found)
    return _written(numbers[-1]) if numbers else None


def first_number(statement: str) -> str | None:
    """Return the number at the start of a final statement; of a calculation, its result."""
    if found := RESULT.search(statement):
        return _written(found)
    word = WORD.match(statement)
    return str(WORDS.index(word["word"].lower())) if word else None


def _written(found: re.Match[str]) -> str:
    value = Fraction((found["whole"] or "0").replace(",", "") + (found["part"] or ""))
    if found["mixed"] and not found["mixed"].endswith("/0"):
        value += Fraction(found["mixed"])
    if found["below"] and int(found["below"]):
        value /= int(found["below"])
    value *= SCALES.get((found["scale"] or "").lower(), 1)
    value *= -1 if found["sign"] or found["minus"] else 1
    ten = Decimal(value.numerator) / Decimal(value.denominator)
    if Fraction(ten) != value:
        return str(value)
    return f"{ten.normalize():f}"
