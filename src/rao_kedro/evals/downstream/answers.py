"""Answers of chains of thought: read, compared with the gold answers, and with what people read out of outputs.

`extract_answers` and `score_answer` are what this project's task files name as filter and as `process_results`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.downstream.choice_answers import LETTERS, extract_choice
from rao_kedro.evals.downstream.number_answers import extract_number, parse_number
from rao_kedro.models.thinking import split_thinking
from rao_kedro.preferences.readers import read_rows
from rao_kedro.schemas.parameters import PreferenceSource


@dataclass(frozen=True)
class LabelledOutput:
    """A model's output, and the answer that a person reads in it.

    Attributes:
        task: The task.
        prompt: What the model was asked.
        output: What it wrote.
        choices: The choices, without letters; empty where the answer is a number.
        label: The letter or number; None where the output gives no answer.
    """

    task: str
    prompt: str
    output: str
    choices: tuple[str, ...]
    label: str | None


def extract_answer(output: str, choices: Sequence[str] = ()) -> str | None:
    """Return the answer that an output ends with: a letter where there are choices, else a number; None without one.

    It is read behind the thinking; an unfinished thought has no answer.
    """
    said = split_thinking(output).answer
    if said is None:
        return None
    return extract_choice(said, choices) if choices else extract_number(said)


def extract_answers(outputs: Sequence[Sequence[str]], docs: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """Return the answer of each document's only output; a filter of lm-evaluation-harness."""
    return [extract_answer(output, doc["choices"]) for [output], doc in zip(outputs, docs, strict=True)]


def score_answer(doc: Mapping[str, Any], answers: Sequence[str | None]) -> dict[str, float]:
    """Return whether the extracted answer is right, and whether there is none."""
    [answer] = answers
    return {"acc": float(answer == doc["gold"]), "unparsed": float(answer is None)}


def read_labelled(path: str | Path) -> list[LabelledOutput]:
    """Read hand-labelled outputs: JSON lines of `task, prompt, output, label`, and `choices` where there are some.

    The label is null where a person finds no answer.

    Raises:
        DataError: A line lacks a field, or its label is neither a letter of its choices nor a number.
    """
    return [_labelled(row.source, row.content) for row in read_rows(PreferenceSource(path=str(path)))]


def agreement(labelled: Iterable[LabelledOutput]) -> pd.DataFrame:
    """Compare the extraction with labels.

    Returns:
        Columns task, prompt, output, label, extracted, agrees; the mean of the last is the agreement.
    """
    rows = []
    for item in labelled:
        extracted = extract_answer(item.output, item.choices)
        rows.append((item.task, item.prompt, item.output, item.label, extracted, extracted == item.label))
    return pd.DataFrame(rows, columns=["task", "prompt", "output", "label", "extracted", "agrees"])


def _labelled(source: str, row: dict[str, Any] | str) -> LabelledOutput:
    if isinstance(row, str) or not {"task", "prompt", "output", "label"} <= row.keys():
        raise DataError(f"{source}: expected a JSON object with task, prompt, output and label")
    choices = tuple(row.get("choices") or ())
    said = row["label"]
    label = said if choices or said is None else parse_number(str(said))
    if said is not None and (label is None or (choices and label not in list(LETTERS[: len(choices)]))):
        raise DataError(
            f"{source}: label {said!r} is neither null nor {'a letter of a choice' if choices else 'a number'}"
        )
    return LabelledOutput(row["task"], row["prompt"], row["output"], choices, label)
