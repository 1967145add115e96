"""MT-Bench (Zheng et al. 2023): two-turn questions, and a judge that grades each turn or compares two models.

Prompts and the reading of judgments are those of FastChat's `llm_judge`. Knows nothing about who answers or judges.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.statistics import mean_interval

Message = Mapping[str, str]
Winner = Literal["a", "b", "tie"]

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
WITH_REFERENCE = {"math", "reasoning", "coding"}
SCORES = (1.0, 10.0)  # the scale
_ON_SCALE = r"(?:10(?:\.0*)?|[1-9](?:\.\d*)?)"
# Behind a word, double brackets index a list: `x[[1]]`.
SCORE = re.compile(rf"(?<!\w)\[\[({_ON_SCALE})\]\]")
# Single brackets cite and index, too: they hold a score behind `Rating:`, or alone on their line.
SCORE_IN_SINGLE_BRACKETS = re.compile(
    rf"""
      \b(?:rating|score)\b(?:\s+is)?[\s:=*_]+\[(?P<stated>{_ON_SCALE})\](?!\()
    | ^[\s*_]*\[(?P<alone>{_ON_SCALE})\][\s*_.]*$
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
WINNER = re.compile(r"(?<!\w)\[\[([ABC])\]\]")
WINNERS: dict[str, Winner] = {"A": "a", "B": "b", "C": "tie"}


@dataclass(frozen=True)
class Question:
    """A question of two turns.

    Attributes:
        question_id: FastChat's number.
        category: One of `TEMPERATURES`.
        turns: What the user says.
        reference: GPT-4's answer to each turn, in the categories `WITH_REFERENCE`.
    """

    question_id: int
    category: str
    turns: tuple[str, str]
    reference: tuple[str, str] | None = None

    @property
    def temperature(self) -> float:
        """The temperature that models answer this category with."""
        return TEMPERATURES[self.category]


def read_questions(questions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> list[Question]:
    """Return the questions with their reference answers.

    Args:
        questions: Rows of FastChat's `question.jsonl`.
        references: Rows of `reference_answer/gpt-4.jsonl`.

    Raises:
        DataError: A category is unknown, or a question that needs a reference answer has none.
    """
    answers = {row["question_id"]: _turns(row["choices"][0]["turns"]) for row in references}
    found = []
    for row in questions:
        question_id, category = row["question_id"], row["category"]
        if category not in TEMPERATURES:
            raise DataError(f"MT-Bench question {question_id}: unknown category {category!r}")
        if category in WITH_REFERENCE and question_id not in answers:
            raise DataError(f"MT-Bench question {question_id} ({category}) has no reference answer")
        reference = answers[question_id] if category in WITH_REFERENCE else None
        found.append(Question(question_id, category, _turns(row["turns"]), reference))
    return found


def _turns(turns: Sequence[str]) -> tuple[str, str]:
    first, second = turns
    return first, second


class JudgePrompts:
    """FastChat's prompts, by name."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep the rows of FastChat's `judge_prompts.jsonl`."""
        self.by_name = {row["name"]: row for row in rows}

    def grading(self, question: Question, answers: Sequence[str]) -> list[list[Message]]:
        """Return the dialogue that asks for a score, turn by turn.

        Args:
            question: The question.
            answers: A model's answer to each turn.
        """
        kind = "single-math-v1" if question.reference else "single-v1"
        fields = self._fields(question)
        return [
            self._dialogue(kind, question=question.turns[0], answer=answers[0], **fields),
            self._dialogue(f"{kind}-multi-turn", answer_1=answers[0], answer_2=answers[1], **fields),
        ]

    def comparing(self, question: Question, a: Sequence[str], b: Sequence[str]) -> list[list[Message]]:
        """Return the dialogue that asks which model is better, turn by turn.

        Args:
            question: The question.
            a: Answers of the model that is shown first.
            b: Answers of the other.
        """
        kind = "pair-math-v1" if question.reference else "pair-v2"
        fields = self._fields(question)
        both = {"answer_a_1": a[0], "answer_a_2": a[1], "answer_b_1": b[0], "answer_b_2": b[1]}
        return [
            self._dialogue(kind, question=question.turns[0], answer_a=a[0], answer_b=b[0], **fields),
            self._dialogue(f"{kind}-multi-turn", **both, **fields),
        ]

    def _fields(self, question: Question) -> dict[str, str]:
        turns = {f"question_{i}": turn for i, turn in enumerate(question.turns, 1)}
        return turns | {f"ref_answer_{i}": answer for i, answer in enumerate(question.reference or (), 1)}

    def _dialogue(self, name: str, **fields: str) -> list[Message]:
        if name not in self.by_name:
            raise DataError(f"MT-Bench's judge prompts lack {name!r}; there are {', '.join(self.by_name)}")
        prompt = self.by_name[name]
        return [
            {"role": "system", "content": prompt["system_prompt"]},
            {"role": "user", "content": prompt["prompt_template"].format(**fields)},
        ]


def parse_score(judgment: str) -> float | None:
    """Return the last score from 1 to 10 of a judgment, `[[score]]` or else `[score]`; None where there is none."""
    if in_double := SCORE.findall(judgment):
        return float(in_double[-1])
    in_single = [*SCORE_IN_SINGLE_BRACKETS.finditer(judgment)]
    return float(in_single[-1]["stated"] or in_single[-1]["alone"]) if in_single else None


def parse_winner(judgment: str) -> Winner | None:
    """Return whom the last verdict of a comparison prefers; None where there is none."""
    verdicts = WINNER.findall(judgment)
    return WINNERS[verdicts[-1]] if verdicts else None


def winner_of_both_orders(first: Winner | None, swapped: Winner | None) -> Winner | None:
    """Return the winner of a comparison that was made in both orders: a tie where they disagree.

    Args:
        first: The verdict on (a, b).
        swapped: The verdict on (b, a).
    """
    if first is None or swapped is None:
        return None
    seen_from_a: dict[Winner, Winner] = {"a": "b", "b": "a", "tie": "tie"}
    return first if first == seen_from_a[swapped] else "tie"


def score_table(judgments: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean scores over questions, per turn and per category.

    Args:
        judgments: Columns `question_id, category, turn, score`; a score is NaN where none could be read.
        seed: Seeds the resampling of the 95 % intervals.

    Returns:
        Columns `category, turn, score, low, high, n, unparsed`: "all" stands for every category, and turn 0 for both,
        whose score is the mean of a question's turns. Judgments without a score are counted, and left out of the means.
    """
    rows = [
        (*scope, *mean_interval(scores_by_question(part).dropna().tolist(), SCORES, seed), part["score"].isna().sum())
        for scope, part in score_scopes(judgments).items()
    ]
    return pd.DataFrame(rows, columns=["category", "turn", "score", "low", "high", "n", "unparsed"])


def score_scopes(judgments: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """Return the judgments of each category and turn: "all" stands for every category, and turn 0 for both."""
    return {
        (str(category), int(turn)): of_turn
        for category, of_category in [("all", judgments), *judgments.groupby("category", sort=False)]
        for turn, of_turn in [(0, of_category), *of_category.groupby("turn")]
    }


def scores_by_question(judgments: pd.DataFrame) -> pd.Series:
    """Return the mean score of each question's judgments; NaN where none could be read."""
    return judgments.groupby("question_id")["score"].mean()
