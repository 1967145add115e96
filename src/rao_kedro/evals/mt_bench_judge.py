"""Answers and judgments of MT-Bench: both turns of a model, each graded alone or compared with another model's.

What writes is given as a function; what judges as a server.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.mt_bench import (
    JudgePrompts,
    Message,
    Question,
    parse_score,
    parse_winner,
    winner_of_both_orders,
)
from rao_kedro.evals.responses import Response
from rao_kedro.inference.chat_completions import ChatSampling
from rao_kedro.inference.judge import Asked

SAMPLING = ChatSampling(max_tokens=2048)
Write = Callable[[str, Mapping[str, Sequence[Message]], float], Mapping[str, Response]]


def answered(questions: Sequence[Question], write: Write) -> dict[int, list[Response]]:
    """Return a model's response to both turns of each question, by the question's id.

    The second turn sees the first answer without its thinking.

    Args:
        questions: What is asked.
        write: Returns the responses to named dialogues, given a name for them all and a temperature.
    """
    responses: dict[int, list[Response]] = {question.question_id: [] for question in questions}
    for turn in (1, 2):
        for temperature in sorted({question.temperature for question in questions}):
            asked = {
                str(question.question_id): _dialogue(question, responses[question.question_id])
                for question in questions
                if question.temperature == temperature
            }
            written = write(f"mt_bench_turn_{turn}_temperature_{temperature:g}", asked, temperature)
            for question_id in asked:
                responses[int(question_id)].append(written[question_id])
    return responses


def _dialogue(question: Question, responses: Sequence[Response]) -> list[Message]:
    """Return the dialogue up to the turn that is not answered yet."""
    messages: list[Message] = []
    for turn, response in zip(question.turns, responses, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": response.answer}]
    return [*messages, {"role": "user", "content": question.turns[len(responses)]}]


def graded(
    questions: Sequence[Question], answers: Mapping[int, Sequence[str]], prompts: JudgePrompts, judge: Asked
) -> pd.DataFrame:
    """Return the judge's score of every answer.

    Args:
        questions: What was asked.
        answers: A model's two answers, by the question's id.
        prompts: FastChat's.
        judge: The judge.

    Returns:
        Columns `question_id, category, turn, judge, user_prompt, judgment, score`; a score is not a number where none
        could be read.

    Raises:
        DataError: A question was not answered.
    """
    asked = [
        (question, turn, dialogue)
        for question in questions
        for turn, dialogue in enumerate(prompts.grading(question, _of(answers, question)), start=1)
    ]
    replies = judge.answers([dialogue for *_, dialogue in asked], SAMPLING)
    rows = [
        {
            "question_id": question.question_id,
            "category": question.category,
            "turn": turn,
            "judge": judge.model,
            "user_prompt": dialogue[-1]["content"],
            "judgment": reply.text,
            "score": parse_score(reply.text),
        }
        for (question, turn, dialogue), reply in zip(asked, replies, strict=True)
    ]
    return pd.DataFrame(rows).astype({"score": float})


def compared(
    questions: Sequence[Question],
    a: Mapping[int, Sequence[str]],
    b: Mapping[int, Sequence[str]],
    prompts: JudgePrompts,
    judge: Asked,
) -> pd.DataFrame:
    """Return which of two models the judge prefers, asked in both orders.

    Args:
        questions: What was asked.
        a: The one model's two answers, by the question's id.
        b: The other's.
        prompts: FastChat's.
        judge: The judge.

    Returns:
        Columns `question_id, category, turn, judge, judgment, judgment_swapped, winner, winner_swapped, verdict`: a
        winner is "a", "b", "tie" or missing; `winner_swapped` calls the model that was shown first, which is b, "a".
        The verdict is a tie where the orders disagree, and missing where a judgment could not be read.

    Raises:
        DataError: A question was not answered.
    """
    orders = [
        [
            dialogue
            for question in questions
            for dialogue in prompts.comparing(question, _of(first, question), _of(second, question))
        ]
        for first, second in ((a, b), (b, a))
    ]
    replies = judge.answers([*orders[0], *orders[1]], SAMPLING)
    rows = []
    turns = [(question, turn) for question in questions for turn in (1, 2)]
    for (question, turn), reply, swapped in zip(turns, replies[: len(turns)], replies[len(turns) :], strict=True):
        winners = parse_winner(reply.text), parse_winner(swapped.text)
        rows.append(
            {
                "question_id": question.question_id,
                "category": question.category,
                "turn": turn,
                "judge": judge.model,
                "judgment": reply.text,
                "judgment_swapped": swapped.text,
                "winner": winners[0],
                "winner_swapped": winners[1],
                "verdict": winner_of_both_orders(*winners),
            }
        )
    return pd.DataFrame(rows)


def _of(answers: Mapping[int, Sequence[str]], question: Question) -> Sequence[str]:
    if question.question_id not in answers:
        raise DataError(f"MT-Bench question {question.question_id} was not answered")
    return answers[question.question_id]
