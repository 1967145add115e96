"""Formats of downstream benchmarks: one function per benchmark, from a row to an item.

Knows nothing about files, prompts and scores.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rao_kedro.errors import DataError
from rao_kedro.evals.downstream.choice_answers import LETTERS
from rao_kedro.evals.downstream.number_answers import parse_number

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """A question and its gold answer, in one form for all benchmarks.

    Attributes:
        item_id: Identifies the item within its task.
        question: The question.
        choices: The choices, without letters; empty if the answer is a number.
        gold: The letter of the right choice, or the number as `parse_number` writes it.
        context: The text that the question is about, if the benchmark gives it separately.
        subject: The subject of an item of MMLU; empty for other tasks.
    """

    item_id: str
    question: str
    choices: tuple[str, ...]
    gold: str
    context: str = ""
    subject: str = ""


def gsm8k(row: Row, item_id: str) -> Item:
    """Read GSM8K (openai/grade-school-math, openai/gsm8k): question, and answer with a last line `#### number`."""
    _, mark, last = _text(row, "answer").rpartition("####")
    gold = parse_number(last)
    if not mark or gold is None:
        raise DataError(f"answer ends with {last[-40:]!r}, expected `#### number`")
    return Item(item_id, _text(row, "question"), (), gold)


def arc(row: Row, item_id: str) -> Item:
    """Read ARC: `id, question, choices, answerKey` (allenai/ai2_arc), or `instruction, answer` (LLM-Adapters).

    Some rows on the hub label the choices 1 to 4.
    """
    if "instruction" in row:
        return _arc_instruction(row, item_id)
    choices = _value(row, "choices")
    labels, texts = list(choices["label"]), list(choices["text"])
    question = _text(row, "question")
    return _choice_item(str(row.get("id", item_id)), question, texts, _index(labels, row, "answerKey"))


def _arc_instruction(row: Row, item_id: str) -> Item:
    """Read `... question: <question>\\n\\nAnswer1: <choice> Answer2: <choice> ...\\n\\nAnswer format: ...`."""
    instruction = _text(row, "instruction")
    found = re.fullmatch(r"[^:]*: (.*)\n\n(Answer1: .*)\n\nAnswer format: \S+\s*", instruction, re.DOTALL)
    if not found:
        raise DataError(f"instruction {instruction[:80]!r} does not list its choices as `Answer1: ...`")
    parts = re.split(r"(?:^|\s)Answer(\d): ", found[2])[1:]
    labels = [f"answer{number}" for number in parts[::2]]
    return _choice_item(item_id, found[1], parts[1::2], _index(labels, row, "answer"))


def mathqa(row: Row, item_id: str) -> Item:
    """Read MathQA (regisss/math_qa, allenai/math_qa): Problem, options, correct.

    Options are `a ) 38 , b ) 27 , ...`, in some rows `['a ) 38', 'b ) 27', ...]`. Some options repeat their letter.
    """
    options = _text(row, "options")
    listed = ast.literal_eval(options) if options.startswith("[") else re.split(r"\s*,\s*(?=[b-e] \) )", options)
    labels = [option[0] for option in listed]
    texts = [re.sub(rf"^(?:{label} \) )+", "", option) for label, option in zip(labels, listed, strict=True)]
    if labels != list("abcde"):
        raise DataError(f"options {options!r} are not five options labelled a to e")
    return _choice_item(item_id, _text(row, "Problem"), texts, _index(labels, row, "correct"))


def socialiqa(row: Row, item_id: str) -> Item:
    """Read SocialIQA (the official release, allenai/social_i_qa): context, question, answerA, B and C, label 1 to 3."""
    choices = [_text(row, f"answer{letter}") for letter in "ABC"]
    gold = _index(["1", "2", "3"], row, "label")
    return _choice_item(item_id, _text(row, "question"), choices, gold, _text(row, "context"))


def mmlu(row: Row, item_id: str) -> Item:
    """Read MMLU: question, choices, answer (from 0 in cais/mmlu, a letter in hendrycks/test), subject."""
    choices = [str(choice) for choice in _value(row, "choices")]
    labels = list("ABCD") if isinstance(row.get("answer"), str) else list(range(4))
    # Not stripped: published prompts contain the question with its blanks.
    return _choice_item(
        item_id, _text(row, "question"), choices, _index(labels, row, "answer"), subject=_text(row, "subject")
    )


def _choice_item(
    item_id: str, question: str, choices: Sequence[str], gold: int, context: str = "", subject: str = ""
) -> Item:
    if not 2 <= len(choices) <= len(LETTERS) or gold >= len(choices):
        raise DataError(f"there are {len(choices)} choices, and the right one is number {gold + 1}")
    texts = choices if subject else [choice.strip() for choice in choices]
    return Item(item_id, question, tuple(texts), LETTERS[gold], context, subject)


def _index(labels: Sequence[object], row: Row, name: str) -> int:
    label = _value(row, name)
    label = label.strip() if isinstance(label, str) else label
    if label not in labels:
        raise DataError(f"{name} is {label!r}, which is not one of {', '.join(map(str, labels))}")
    return labels.index(label)


def _value(row: Row, name: str) -> Any:
    if row.get(name) is None:
        raise DataError(f"there is no column {name!r} among {', '.join(row)}")
    return row[name]


def _text(row: Row, name: str) -> str:
    if not isinstance(value := _value(row, name), str) or not value.strip():
        raise DataError(f"{name} is not a text")
    return value
