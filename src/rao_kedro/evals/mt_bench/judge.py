"""Asks a judge about both turns of MT-Bench's questions: for a score, or for the better of two models."""

from collections.abc import Mapping, Sequence

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.mt_bench.questions import JudgePrompts, Question
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.judge import ChatModel
from rao_kedro.judges.replies import Answer
from rao_kedro.judges.scores import combine_orders, parse_score, parse_winner

SAMPLING = ChatSampling(max_tokens=2048)
Turn = tuple[int, int]  # the question's id, and 1 or 2
NOTHING: Mapping[Turn, str] = {}
NOT_ASKED = Answer(text="")


def grade_answers(
    questions: Sequence[Question],
    answers: Mapping[int, Sequence[str]],
    prompts: JudgePrompts,
    judge: ChatModel,
    unanswered: Mapping[Turn, str] = NOTHING,
) -> pd.DataFrame:
    """Ask the judge for a score of every answer.

    Args:
        questions: The questions.
        answers: A model's two answers, by the question's id.
        prompts: FastChat's judge prompts.
        judge: The judge.
        unanswered: Why the model gave no answer, by question and turn; the judge is not asked about these.

    Returns:
        Columns `question_id, category, turn, judge, user_prompt, judgment, score, unscored_reason`; the score is NaN
        where there is a reason.

    Raises:
        DataError: A question has no answers.
    """
    dialogues = {
        (question.question_id, turn): dialogue
        for question in questions
        for turn, dialogue in enumerate(prompts.grading(question, _answers_to(question, answers)), start=1)
    }
    asked = [turn for turn in dialogues if turn not in unanswered]
    replies = judge.answers([dialogues[turn] for turn in asked], SAMPLING, _why_no_score)
    judgments = dict(zip(asked, replies, strict=True))
    rows = []
    for question in questions:
        for turn in (1, 2):
            reply = judgments.get((question.question_id, turn), NOT_ASKED)
            reason = unanswered.get((question.question_id, turn)) or _why_no_score(reply)
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


def compare_answers(
    questions: Sequence[Question],
    a: Mapping[int, Sequence[str]],
    b: Mapping[int, Sequence[str]],
    prompts: JudgePrompts,
    judge: ChatModel,
    unanswered: Mapping[Turn, str] = NOTHING,
) -> pd.DataFrame:
    """Ask the judge which of two models is better, in both orders.

    Args:
        questions: The questions.
        a: The first model's two answers, by the question's id.
        b: The second model's two answers.
        prompts: FastChat's judge prompts.
        judge: The judge.
        unanswered: Why a model gave no answer, by question and turn; the judge is not asked about these.

    Returns:
        Columns `question_id, category, turn, judge, judgment, judgment_swapped, winner, winner_swapped, verdict,
        unscored_reason`. A winner is "a", "b", "tie" or missing; `winner_swapped` calls the model that was shown first,
        which is b, "a". The verdict is a tie where the orders disagree, and missing where there is a reason.

    Raises:
        DataError: A question has no answers.
    """
    orders = [
        {
            (question.question_id, turn): dialogue
            for question in questions
            for turn, dialogue in enumerate(
                prompts.comparing(question, _answers_to(question, first), _answers_to(question, second)), start=1
            )
        }
        for first, second in ((a, b), (b, a))
    ]
    asked = [turn for turn in orders[0] if turn not in unanswered]
    replies = judge.answers([order[turn] for order in orders for turn in asked], SAMPLING, _why_no_winner)
    judgments = dict(zip(asked, zip(replies[: len(asked)], replies[len(asked) :], strict=True), strict=True))
    rows = []
    for question in questions:
        for turn in (1, 2):
            key = question.question_id, turn
            both = judgments.get(key, (NOT_ASKED, NOT_ASKED))
            reasons = [unanswered[key]] if key in unanswered else [*filter(None, map(_why_no_winner, both))]
            winners = [None if _why_no_winner(reply) else parse_winner(reply.text) for reply in both]
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
                    "verdict": combine_orders(*winners),
                    "unscored_reason": "; ".join(dict.fromkeys(reasons)),
                }
            )
    return pd.DataFrame(rows)


def _why_no_score(judgment: Answer) -> str:
    """Return why a judgment has no score; "" where it has one."""
    unread = parse_score(judgment.text) is None
    return judgment.failure() or (f"the judgment holds no score: {judgment.text[-200:]!r}" if unread else "")


def _why_no_winner(judgment: Answer) -> str:
    """Return why a judgment names no winner; "" where it names one."""
    unread = parse_winner(judgment.text) is None
    return judgment.failure() or (f"the judgment names no winner: {judgment.text[-200:]!r}" if unread else "")


def _answers_to(question: Question, answers: Mapping[int, Sequence[str]]) -> Sequence[str]:
    if question.question_id not in answers:
        raise DataError(f"MT-Bench question {question.question_id} was not answered")
    return answers[question.question_id]
