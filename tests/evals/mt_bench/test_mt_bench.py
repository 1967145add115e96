"""MT-Bench against the published judgments: prompts and scores to the letter."""

import math
import re

import pandas as pd
import pytest
from assets import json_lines

from rao_kedro.errors import DataError
from rao_kedro.evals.mt_bench.benchmark import MTBench
from rao_kedro.evals.mt_bench.questions import JudgePrompts, read_questions
from rao_kedro.evals.mt_bench.tables import MTBenchComparisonTable


@pytest.fixture(scope="module")
def questions():
    found = read_questions(
        json_lines("mt_bench/question.jsonl.gz"), json_lines("mt_bench/reference_answer-gpt-4.jsonl.gz")
    )
    return {question.question_id: question for question in found}


@pytest.fixture(scope="module")
def prompts():
    return JudgePrompts(json_lines("mt_bench/judge_prompts.jsonl.gz"))


@pytest.fixture(scope="module")
def judgments():
    return json_lines("mt_bench/judgments-gpt-4_single-a.jsonl.gz")


ONE_ANSWER = re.compile(r"\[The Start of Assistant's Answer\]\n(.*)\n\[The End of Assistant's Answer\]", re.DOTALL)


def answers_in(row, question):
    """Return the answers that a published prompt shows."""
    shown = row["user_prompt"]
    if row["turn"] == 1:
        return [ONE_ANSWER.search(shown).group(1), ""]
    conversation = shown[shown.index("<|The Start of Assistant A's") :]
    second_question = f"\n\n### User:\n{question.turns[1]}\n\n### Assistant A:\n"
    first, second = conversation.split(second_question)
    start = f"### User:\n{question.turns[0]}\n\n### Assistant A:\n"
    return [first.split(start)[1], second.removesuffix("\n\n<|The End of Assistant A's Conversation with User|>")]


def test_every_published_prompt_is_built(questions, prompts, judgments):
    for row in judgments:
        question = questions[row["question_id"]]
        asked = prompts.grading(question, answers_in(row, question))[row["turn"] - 1]
        assert asked[1]["content"] == row["user_prompt"]
        assert prompts.by_name[row["judge"][1]]["system_prompt"] == asked[0]["content"]


def test_there_are_80_questions_of_8_categories_and_30_have_a_reference(questions):
    assert len(questions) == 80 and len({question.category for question in questions.values()}) == 8
    assert sum(question.reference is not None for question in questions.values()) == 30


def test_a_comparison_shows_both_models_in_the_order_that_was_asked_for(questions, prompts):
    for question in (questions[81], questions[111]):
        for first, second in ((["AAA", "AA2"], ["BBB", "BB2"]), (["BBB", "BB2"], ["AAA", "AA2"])):
            for turn, asked in enumerate(prompts.comparing(question, first, second)):
                shown = asked[1]["content"]
                assert shown.index(first[turn]) < shown.index(second[turn])
                assert (question.reference is not None) == ("Reference" in shown)


def test_judgments_without_a_score_are_counted_and_not_averaged():
    rows = [(1, "math", 1, 4.0), (1, "math", 2, 8.0), (2, "writing", 1, 10.0), (2, "writing", 2, math.nan)]
    table = pd.DataFrame(rows, columns=["question_id", "category", "turn", "score"]).assign(judge="gpt")
    empty = MTBenchComparisonTable.empty()
    metrics = MTBench().metrics({"mt_bench_judgments": table, "mt_bench_comparisons": empty})
    assert list(metrics) == ["score", "score_turn_1", "score_turn_2", "score_math", "score_writing"]
    found = {name: (metric.value, metric.values.notna().sum(), metric.unscored) for name, metric in metrics.items()}
    assert found["score"] == (8.0, 2, 1)  # of 6 and 10
    assert found["score_turn_2"] == (8.0, 1, 1)
    assert found["score_writing"] == (10.0, 1, 1)


def test_a_question_that_cannot_be_judged_is_refused():
    row = {"question_id": 111, "category": "math", "turns": ["1 + 1?", "And 2 + 2?"]}
    with pytest.raises(DataError, match=r"question 111 \(math\) has no reference answer"):
        read_questions([row], [])
    with pytest.raises(DataError, match="unknown category 'poetry'"):
        read_questions([row | {"category": "poetry"}], [])
