"""Extracts the choice that a chain of thought ends with."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from rao_kedro.evals.downstream.number_answers import first_number, parse_number
from rao_kedro.evals.downstream.statements import (
    Statement,
    bold_parts,
    breaks_off,
    clean,
    final_statements,
    first_sentence,
    is_placeholder,
    last_sentence,
)

LETTERS = "ABCDE"
NONE = ""  # the result for an answer that names several choices, or something else
SENTENCE = re.compile(r"[^.!?\n]+")
TEXT_IS_RIGHT = re.compile(
    r"(?:is|are|was|would be) (?:the )?(?:only |single )?(?:correct|right|best|answer|most (?:likely|important))\b"
)

_NOUN = r"(?i:option|choice|answer|letter|statement|sentence|alternative|number)"
_BECAUSE = r"(?i:because|since|as|is|was|for|due|and|or|rather|which|that|with)\b"
_RIGHT = r"(?i:correct|right|best|answer|most|true|appropriate|likely|final)\b"


def extract_choice(output: str, choices: Sequence[str], labels: str = LETTERS) -> str | None:
    """Return the label of the choice that a chain of thought ends with, or None if it does not end with one.

    In this order: the last final statement (`The answer is (B)`, `\\boxed{B}`, `B is correct`, `I choose B`), with a
    label or a choice's text or number in it; the one label that a line or a part in bold consists of; the one choice
    that the last sentence repeats. Several choices at once do not count as an answer.

    Args:
        output: The response.
        choices: The texts of the choices.
        labels: One character per choice, as in the prompt.
    """
    reader = _Reader(choices, labels[: len(choices)])
    text = clean(output)
    for statement in reader.statements(text):
        if is_placeholder(statement):
            return None
        if (found := reader.stated(statement)) is not None:
            return found or None
    return reader.marked(output, text) or reader.repeated(text)


class _Patterns(NamedTuple):
    """Patterns of a label: at the start of a statement, anywhere, in a list of several, as a subject, in a line."""

    start: re.Pattern[str]
    named: re.Pattern[str]
    listed: re.Pattern[str]
    subject: re.Pattern[str]
    line: re.Pattern[str]


@cache
def _patterns(labels: str) -> _Patterns:
    label = f"[{labels}]"
    # A lone character is a label unless it is a word or a variable: `The answer is A planet` names no label.
    alone = r"(?![\w'\u2019]|[-.]\w|\s*[=+*^])"
    no_article = rf"(?!(?<=[A1-9])\s+(?!{_BECAUSE})\w)"
    closed = r"(?=\s*(?:$|[)\].:;,}\"*\\$]))"
    opened = r"[(\[{$\"'\u201c\s]*"
    return _Patterns(
        start=re.compile(
            rf"(?:(?:(?i:the)\s+)?{_NOUN}\s*[:#]?\s*{opened}(?P<named>(?i:{label})){alone}"
            rf"|{opened}(?:(?P<big>{label}){alone}{no_article}|(?P<small>(?i:{label})){alone}{closed}))"
        ),
        named=re.compile(rf"\((?i:{label})\)|\b(?i:option|choice|answer)\s+{label}{alone}"),
        listed=re.compile(
            rf"[)\]\"'\s]*(?:,|/|&|,?\s*\b(?:or|and)\b)\s*(?:{_NOUN}\s*)?[(\"']*{label}(?!\w)(?!\S*\s+(?i:is|was|does)\b)"
        ),
        subject=re.compile(
            rf"(?:\b{_NOUN}\s+)?[(\"']?(?<!\w)(?P<label>{label})\b[)\"']?(?:[.:)]\s?[^.\n]{{1,120}}?|,?\s\([^()\n]*\))?"
            rf"\s*,?\s+(?i:is|would\s+be|must\s+be|seems)\s+(?:(?i:likely|probably|therefore|thus|indeed|clearly)\s+)?"
            rf"(?:(?i:the)\s+)?(?:(?i:only|single|one)\s+)?{_RIGHT}"
        ),
        line=re.compile(
            rf"(?:{_NOUN}\s*[:#]?\s*[(\[]?(?P<named>(?i:{label}))|[(\[]?(?P<label>{label}))(?P<mark>[)\].:]+|(?=\s|$))"
        ),
    )


class _Reader:
    """Finds the choices of one question in texts."""

    def __init__(self, choices: Sequence[str], labels: str) -> None:
        self.labels = labels
        self.patterns = _patterns(labels)
        self.texts = [_plain(choice) for choice in choices]
        self.numbers = [parse_number(choice) for choice in choices]

    def statements(self, text: str) -> Iterator[str]:
        """Yield final statements, the last one first, including statements such as `B is correct`."""
        subjects = [Statement(found.start(), found["label"]) for found in self.patterns.subject.finditer(text)]
        subjects += [Statement(*found) for found in self._texts_as_subjects(text)]
        yield from (said.text for said in sorted([*final_statements(text), *subjects], reverse=True))

    def _texts_as_subjects(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the position of each sentence that begins with a choice's text and calls it right, and its label."""
        for sentence in SENTENCE.finditer(text):
            said = _plain(sentence.group())
            label = self.starting(said)
            if label and TEXT_IS_RIGHT.match(said.removeprefix(self.texts[self.labels.index(label)])):
                yield sentence.start(), label

    def stated(self, statement: str) -> str | None:
        """Return the label that a statement names; `NONE` for no valid choice; None if it states nothing."""
        if re.match(r"(?i:not|neither|none of)\b", statement) and self.starting(statement) is None:
            return None
        if found := self.patterns.start.match(statement):
            several = self.patterns.listed.match(statement, found.end())
            return NONE if several else _label(found)
        sentence = first_sentence(statement)
        named = {part.group().rstrip(")")[-1].upper() for part in self.patterns.named.finditer(sentence)}
        if len(named) == 1:
            return named.pop()
        if (found_text := self.starting(statement)) is not None:
            return found_text
        if (choice := self.contained(sentence) or self.numbered(sentence)) is not None:
            return choice
        # A number that is not one of the choices is a wrong answer.
        return NONE if parse_number(sentence) is not None else None

    def starting(self, statement: str) -> str | None:
        """Return the choice with the longest text that a statement starts with."""
        said = _plain(statement)
        found = [i for i, text in enumerate(self.texts) if text.strip() and said.startswith(text)]
        return NONE if any(said.startswith(f"{self.texts[i]}or ") for i in found) else self._only(found)

    def contained(self, sentence: str) -> str | None:
        """Return the choice whose text is in a sentence, if there is only one."""
        said = _plain(sentence)
        return self._only([i for i, text in enumerate(self.texts) if text.strip() and text in said])

    def numbered(self, sentence: str) -> str | None:
        """Return the choice that equals the number in a sentence, if there is only one."""
        number = first_number(sentence)
        same = [i for i, choice in enumerate(self.numbers) if number is not None and choice == number]
        return self.labels[same[0]] if len(same) == 1 else None

    def marked(self, output: str, text: str) -> str | None:
        """Return the label that a line or a part in bold consists of or begins with, if there is only one.

        A list of all choices, as in the prompt, is left out. A last line that is a label counts, whatever came before.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if breaks_off(text):
            lines.pop()
        if lines and (last := self.patterns.line.fullmatch(lines[-1])):
            return _label(last)
        ends = {0, len(lines) - 1}
        found = [label for i, line in enumerate(lines) if (label := self._marked(line, begins=i in ends))]
        if "".join(found[: len(self.labels)]) == self.labels:
            found = found[len(self.labels) :]
        found += [label for part in bold_parts(output) if (label := self._marked(part, begins=False))]
        return found[0] if len(set(found)) == 1 else None

    def repeated(self, text: str) -> str | None:
        """Return the only choice whose text is in the last sentence, unless the text breaks off in it."""
        complete = text.rstrip().endswith((".", "!", "?", '"', ")")) or _plain(text) in self.texts
        in_list = self.patterns.line.match(text.rstrip().rpartition("\n")[2].strip())
        return self.contained(last_sentence(text)) if complete and not (in_list and in_list["mark"]) else None

    def _marked(self, line: str, begins: bool) -> str | None:
        if not (found := self.patterns.line.match(line)):
            return None
        label, rest = _label(found), _plain(line[found.end() :])
        same = not rest.strip() or rest == self.texts[self.labels.index(label)]
        begins = begins and bool(found["mark"]) and not re.search(r" (?:not|incorrect|wrong|false) ", rest)
        return label if same or begins else None

    def _only(self, found: Sequence[int]) -> str | None:
        """Return the label of the only choice, ignoring choices whose text is part of another choice's."""
        texts = Counter(self.texts[i] for i in found)
        longest = [i for i in found if not any(self.texts[i] in text for text in texts if text != self.texts[i])]
        return self.labels[longest[0]] if len(longest) == 1 else None


def _label(found: re.Match[str]) -> str:
    return next(label for label in found.groupdict().values() if label and label.isalnum()).upper()


def _plain(text: str) -> str:
    """Return the words, numbers and operators of a text, each between spaces, so that a search finds whole ones."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", clean(text).lower())
    words = re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+|[-+*/^:%=<>\u2212\u221a\u00b0]", text)
    return f" {' '.join(words)} "
