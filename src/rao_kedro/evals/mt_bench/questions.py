"""MT-Bench's questions, and the dialogues that ask a judge about responses to them, from FastChat's `llm_judge` files.

Knows nothing about generation and judging.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rao_kedro.errors import DataError
from rao_kedro.judges.client import Message

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


@dataclass(frozen=True)
class Question:
    """A question of two turns.

    Attributes:
        question_id: FastChat's number.
        category: One of `TEMPERATURES`.
        turns: The user's messages.
        reference: GPT-4's answer to each turn, for the categories in `WITH_REFERENCE`.
    """

    question_id: int
    category: str
    turns: tuple[str, str]
    reference: tuple[str, str] | None = None

    @property
    def temperature(self) -> float:
        """Sampling temperature of responses to this category."""
        return TEMPERATURES[self.category]


def read_questions(questions: Iterable[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]) -> list[Question]:
    """Return the questions with their reference answers.

    Args:
        questions: Rows of FastChat's `question.jsonl`.
        references: Rows of `reference_answer/gpt-4.jsonl`.

    Raises:
        DataError: A category is unknown, or a question that needs a reference answer has none.
    """
    answers = {row["question_id"]: _pair(row["choices"][0]["turns"]) for row in references}
    found = []
    for row in questions:
        question_id, category = row["question_id"], row["category"]
        if category not in TEMPERATURES:
            raise DataError(f"MT-Bench question {question_id}: unknown category {category!r}")
        if category in WITH_REFERENCE and question_id not in answers:
            raise DataError(f"MT-Bench question {question_id} ({category}) has no reference answer")
        reference = answers[question_id] if category in WITH_REFERENCE else None
        found.append(Question(question_id, category, _pair(row["turns"]), reference))
    return found


def _pair(turns: Sequence[str]) -> tuple[str, str]:
    first, second = turns
    return first, second


class JudgePrompts:
    """FastChat's judge prompts, by name."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep the rows of FastChat's `judge_prompts.jsonl`."""
        self.by_name = {row["name"]: row for row in rows}

    def grading(self, question: Question, answers: Sequence[str]) -> list[list[Message]]:
        """Return the dialogue that asks for a score, per turn.

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
        """Return the dialogue that asks which model is better, per turn.

        Args:
            question: The question.
            a: Answers of the model that is shown first.
            b: Answers of the other model.
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
