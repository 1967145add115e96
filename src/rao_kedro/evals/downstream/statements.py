"""Finds where a chain of thought states its answer: `The answer is ...`, `\\boxed{...}`, `#### ...`.

Knows nothing about what an answer is.
"""

import re
from typing import NamedTuple

_VERB = r"(?:is|are|be|was|equals|:|=|\u2192|->)"
_ADJECTIVE = r"(?:correct|right|best|final|suitable|appropriate|likely|reasonable|logical|accurate|plausible|possible)"
_NOUN = r"(?:option|choice|statement|sentence|response|action|conclusion|result|one|solution)"
STATEMENT = re.compile(
    rf"""
      ^\#\#\#\#\s*(?=[-$\d(]|[A-E]\b)(?!\d+[.)]\s)              # GSM8K's mark, not a numbered heading
    | \\boxed\s*\{{(?P<boxed>[^{{}}]*)\}}
    | \banswers?\b(?!\s+(?:choices|options|format))             # `answer to the question would be`
      (?:\s+(?:choice|option|here|then|thus|therefore|now|would|should|must|will|may|can))*
      (?:
        (?:\s+(?:to|for)\s[^.:\n]{{0,200}}?)?
        (?:\s*\((?![A-E]\))[^()\n]*\))?
        \s*{_VERB}(?!\w)
      | \s*(?=[("\u201c])
      )
    | \b{_ADJECTIVE}\s+{_NOUN}\b                              # `best choice`
      (?:\s+[\w',]+){{0,8}}?
      \s*{_VERB}(?!\w)
    | \b(?:choose|select|pick|go\s+with|opt\s+for)\b
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
LISTED = re.compile(r"[-(\s]*[A-E][.):]\s")  # a line of the list of choices in a prompt
QUOTED = re.compile(r"""["'\u201c](?:the\s+)?$""", re.IGNORECASE)
# Numbers of lines and steps.
COUNTERS = re.compile(r"^\s*\d+[.)]\s|\bstep \d+", re.IGNORECASE | re.MULTILINE)
REFERENCES = re.compile(r"(?<=[\w.,;)])\s?\[\d{1,3}\](?!\()")  # `arr[0]`, `see [1]`
ENDS = (".", "!", "?", ":", ")", '"')  # a line that does not break off ends with one of these
SHORT_LINE = 12  # characters; a line up to this length may be an answer
LONG_LINE = 100  # characters; a longer line ends with a full stop unless it is cut
_DECORATION = " \t:*_`\u201c\"'"


def clean(text: str) -> str:
    """Return a text without Markdown and LaTeX markup that may be in or around an answer."""
    text = text.replace("**", "").replace("__", "").replace("`", "").replace("{,}", ",")
    text = re.sub(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r" \1/\2", text)
    text = re.sub(r"\\times|\\cdot", "*", text)
    return re.sub(r"\\(?=[$%])|\\[,;!()\[\]]", "", text)


def without_references(text: str) -> str:
    """Return a text without indices and citations, except in lines that have no other number."""
    lines = [(line, REFERENCES.sub("", line)) for line in text.split("\n")]
    return "\n".join(other if re.search(r"\d", other) else line for line, other in lines)


class Statement(NamedTuple):
    """A final statement: its position and its text."""

    start: int
    text: str


def final_statements(text: str) -> list[Statement]:
    """Return the final statements of a cleaned text: the content of the box, the rest of the line, or the next line.

    A quotation of the prompt's own sentence does not count.
    """
    statements = (Statement(found.start(), _said(text, found)) for found in STATEMENT.finditer(text))
    return [said for said in statements if not (is_placeholder(said.text) and QUOTED.search(text[: said.start]))]


def _said(text: str, found: re.Match[str]) -> str:
    if found["boxed"] is not None:
        return found["boxed"].strip()
    own, *following = text[found.end() :].splitlines() or [""]
    if said := own.strip(_DECORATION):
        return said
    lines = [line for line in (line.strip(_DECORATION) for line in following) if line]
    is_list = len(lines) > 1 and all(LISTED.match(line) for line in lines[:2])
    return lines[0] if lines and not is_list else ""


def breaks_off(text: str) -> bool:
    """Return whether a text was cut: it ends without a full stop in a long line, or in a line that repeats another."""
    *before, last = [COUNTERS.sub("", line).strip() for line in text.splitlines() if line.strip()] or [""]
    repeats = len(last) > SHORT_LINE and any(line.startswith(last) for line in before)
    return not last.endswith(ENDS) and (len(last) > LONG_LINE or repeats)


def is_placeholder(statement: str) -> bool:
    """Return whether a statement is the placeholder X of the prompt, which is not an answer."""
    return re.match(r"""[(\["'\u201c]*X\b(?!\s*=)""", statement) is not None


def first_sentence(statement: str) -> str:
    """Return a line up to the end of its first sentence."""
    return re.split(r"[.!?]+(?:\s+(?=[A-Z\"\u201c(])|$)", statement, maxsplit=1)[0]


def last_sentence(text: str) -> str:
    """Return the last sentence of a text."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z\"\u201c(])|\n+", text.strip())
    return sentences[-1]


def bold_parts(output: str) -> list[str]:
    """Return the parts in bold, cleaned."""
    return [clean(part).strip() for part in re.findall(r"\*\*([^*\n]+)\*\*", output)]
