"""Answers and judgments of MT-Bench: both turns of a model, each graded alone or compared with another model's.

What writes is given as a function; what judges as a server.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.mt_bench.questions import (
    JudgePrompts,
    Message,
    Question,
    parse_score,
    parse_winner,
    winner_of_both_orders,
)
from rao_kedro.evals.responses import Response
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.judge import Asked
from rao_kedro.judges.replies import Answer

SAMPLING = ChatSampling(max_tokens=2048)
Turn = tuple[int, int]  # the question's id, and 1 or 2
NOTHING: Mapping[Turn, str] = {}
NOT_ASKED = Answer(text="")
Write = Callable[[str, Mapping[str, Sequence[Message]], float], Mapping[str, Response]]


def answered(questions: Sequence[Question], write: Write) -> dict[int, list[Response]]:
    """Return a model's response to both turns of each question, by the question's id.

    The second turn sees the first answer without its thinking, and is not asked where there is none.

    Args:
        questions: What is asked.
        write: Returns the responses to named dialogues, given a name for them all and a temperature.
    """
    responses: dict[int, list[Response]] = {question.question_id: [] for question in questions}
    for turn in (1, 2):
        for temperature in sorted({question.temperature for question in questions}):
            of_temperature = [question for question in questions if question.temperature == temperature]
            asked = {}
            for question in of_temperature:
                before = responses[question.question_id]
                if any(response.unscored_reason for response in before):
                    before.append(Response("", unscored_reason="turn 1 has no response"))
                else:
                    asked[str(question.question_id)] = _dialogue(question, before)
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
    questions: Sequence[Question],
    answers: Mapping[int, Sequence[str]],
    prompts: JudgePrompts,
    judge: Asked,
    unanswered: Mapping[Turn, str] = NOTHING,
) -> pd.DataFrame:
    """Return the judge's score of every answer.

    Args:
        questions: What was asked.
        answers: A model's two answers, by the question's id.
        prompts: FastChat's.
        judge: The judge.
        unanswered: Why the model gave no answer, by question and turn; nobody is asked about these.

    Returns:
        Columns `question_id, category, turn, judge, user_prompt, judgment, score, unscored_reason`; a score is NaN
        where there is a reason.

    Raises:
        DataError: A question was not answered.
    """
    dialogues = {
        (question.question_id, turn): dialogue
        for question in questions
        for turn, dialogue in enumerate(prompts.grading(question, _of(answers, question)), start=1)
    }
    asked = [turn for turn in dialogues if turn not in unanswered]
    replies = judge.answers([dialogues[turn] for turn in asked], SAMPLING, _no_score)
    judgments = dict(zip(asked, replies, strict=True))
    rows = []
    for question in questions:
        for turn in (1, 2):
            reply = judgments.get((question.question_id, turn), NOT_ASKED)
            reason = unanswered.get((question.question_id, turn)) or _no_score(reply)
            rows.append(
                {
                    "question_id": question.question_id,
                    "category": question.category,
                    "turn": turn,
                    "judge": judge.model,
                    "user_prompt": dialogues[question.question_id, turn][-1]["content"],
                    "judgment": reply.text,
                    "score": None if reason else parse_score(reply.text),
                    "unscored_reason": reason,
                }
            )
    return pd.DataFrame(rows).astype({"score": float})


def compared(
    questions: Sequence[Question],
    a: Mapping[int, Sequence[str]],
    b: Mapping[int, Sequence[str]],
    prompts: JudgePrompts,
    judge: Asked,
    unanswered: Mapping[Turn, str] = NOTHING,
) -> pd.DataFrame:
    """Return which of two models the judge prefers, asked in both orders.

    Args:
        questions: What was asked.
        a: The one model's two answers, by the question's id.
        b: The other's.
        prompts: FastChat's.
        judge: The judge.
        unanswered: Why a model gave no answer, by question and turn; nobody is asked about these.

    Returns:
        Columns `question_id, category, turn, judge, judgment, judgment_swapped, winner, winner_swapped, verdict,
        unscored_reason`: a winner is "a", "b", "tie" or missing; `winner_swapped` calls the model that was shown first,
        which is b, "a". The verdict is a tie where the orders disagree, and missing where there is a reason.

    Raises:
        DataError: A question was not answered.
    """
    orders = [
        {
            (question.question_id, turn): dialogue
            for question in questions
            for turn, dialogue in enumerate(
                prompts.comparing(question, _of(first, question), _of(second, question)), start=1
            )
        }
        for first, second in ((a, b), (b, a))
    ]
    asked = [turn for turn in orders[0] if turn not in unanswered]
    replies = judge.answers([order[turn] for order in orders for turn in asked], SAMPLING, _no_winner)
    judgments = dict(zip(asked, zip(replies[: len(asked)], replies[len(asked) :], strict=True), strict=True))
    rows = []
    for question in questions:
        for turn in (1, 2):
            key = question.question_id, turn
            both = judgments.get(key, (NOT_ASKED, NOT_ASKED))
            reasons = [unanswered[key]] if key in unanswered else [*filter(None, map(_no_winner, both))]
            winners = [None if _no_winner(reply) else parse_winner(reply.text) for reply in both]
            rows.append(
                {
                    "question_id": question.question_id,
                    "category": question.category,
                    "turn": turn,
                    "judge": judge.model,
                    "judgment": both[0].text,
                    "judgment_swapped": both[1].text,
                    "winner": winners[0],
                    "winner_swapped": winners[1],
                    "verdict": winner_of_both_orders(*winners),
                    "unscored_reason": "; ".join(dict.fromkeys(reasons)),
                }
            )
    return pd.DataFrame(rows)


def _no_score(judgment: Answer) -> str:
    """Return why a judgment has no score."""
    unread = parse_score(judgment.text) is None
    return judgment.failure() or (f"the judgment holds no score: {judgment.text[-200:]!r}" if unread else "")


def _no_winner(judgment: Answer) -> str:
    """Return why a judgment names no winner."""
    unread = parse_winner(judgment.text) is None
    return judgment.failure() or (f"the judgment names no winner: {judgment.text[-200:]!r}" if unread else "")


def _of(answers: Mapping[int, Sequence[str]], question: Question) -> Sequence[str]:
    if question.question_id not in answers:
        raise DataError(f"MT-Bench question {question.question_id} was not answered")
    return answers[question.question_id]
