"""Extracts the answers of chains of thought, and compares them with gold answers and with hand labels.

This project's task files use `extract_answers` and `without_thinking` as filters, and `score_answer` as
`process_results`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.readers import read_rows
from rao_kedro.errors import DataError
from rao_kedro.evals.downstream.choice_answers import LETTERS, extract_choice
from rao_kedro.evals.downstream.number_answers import extract_number, parse_number
from rao_kedro.models.thinking import split_thinking

INVALID = "[invalid]"  # the harness's filters return this if nothing matches
IGNORED = [",", r"\$", r"(?s).*#### ", r"\.$"]  # in numbers; from the harness's own GSM8K tasks


@dataclass(frozen=True)
class LabelledOutput:
    """A model's output, and the answer that a person reads in it.

    Attributes:
        task: The task.
        prompt: The prompt.
        output: The response.
        choices: The choices, without letters; empty if the answer is a number.
        label: The letter or number; None if the output gives no answer.
    """

    task: str
    prompt: str
    output: str
    choices: tuple[str, ...]
    label: str | None


def extract_answer(output: str, choices: Sequence[str] = ()) -> str | None:
    """Return the answer that an output ends with: a letter if there are choices, else a number; None if it has none.

    Only the text after the thinking is read; unfinished thinking has no answer.
    """
    said = split_thinking(output).answer
    if said is None:
        return None
    return extract_choice(said, choices) if choices else extract_number(said)


def extract_answers(outputs: Sequence[Sequence[str]], docs: Iterable[Mapping[str, Any]]) -> list[str | None]:
    """Return the answer in each document's only response; a filter of lm-evaluation-harness."""
    return [extract_answer(output, doc["choices"]) for [output], doc in zip(outputs, docs, strict=True)]


def without_thinking(outputs: Sequence[Sequence[str]], docs: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Return the text after the thinking of each document's outputs; a filter of lm-evaluation-harness."""
    return [[split_thinking(output).answer or "" for output in of_doc] for of_doc in outputs]


def score_answer(doc: Mapping[str, Any], answers: Sequence[str | None]) -> dict[str, float]:
    """Return whether the extracted answer is right, and whether no answer was found.

    Answers are compared as the harness compares numbers of GSM8K: without commas, dollar signs and a last full stop.
    """
    from lm_eval.api.metrics import exact_match_hf_evaluate

    [answer] = answers
    if answer is None or answer == INVALID:
        return {"acc": 0.0, "unparsed": 1.0}
    found = exact_match_hf_evaluate([answer], [doc["gold"]], regexes_to_ignore=IGNORED, ignore_case=True)
    return {"acc": float(found["exact_match"]), "unparsed": 0.0}


def read_labelled(path: str | Path) -> list[LabelledOutput]:
    """Read hand-labelled outputs: JSON lines of `task, prompt, output, label`, and `choices` if there are some.

    The label is null if the output gives no answer.

    Raises:
        DataError: A line lacks a field, or its label is neither a letter of its choices nor a number.
    """
    return [_labelled(row.source, row.content) for row in read_rows(PreferenceSource(path=str(path)))]


def agreement(labelled: Iterable[LabelledOutput]) -> pd.DataFrame:
    """Compare the extraction with labels.

    Returns:
        Columns `task, prompt, output, label, extracted, agrees`; the mean of `agrees` is the agreement.
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
