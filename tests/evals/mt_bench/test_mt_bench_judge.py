"""MT-Bench end to end with models and judges that answer by rule."""

import re

import pytest

from rao_kedro.errors import DataError
from rao_kedro.evals.mt_bench.benchmark import MTBench
from rao_kedro.evals.mt_bench.judge import compare_answers, grade_answers
from rao_kedro.evals.mt_bench.questions import JudgePrompts, Question
from rao_kedro.evals.responses import Response
from rao_kedro.judges.chat_completions import ChatServer

QUESTIONS = [
    Question(81, "writing", ("Write a line.", "Shorter.")),
    Question(111, "math", ("1 + 1?", "And doubled?"), ("2", "4")),
    Question(112, "math", ("2 + 2?", "And doubled?"), ("4", "8")),
]
ANSWERS = {q.question_id: [f"{q.question_id} first", f"{q.question_id} second"] for q in QUESTIONS}


def prompt(name, template):
    return {"name": name, "system_prompt": f"system of {name}", "prompt_template": template}


PROMPTS = JudgePrompts(
    [
        prompt("single-v1", "Rate: {question} <{answer}>"),
        prompt("single-v1-multi-turn", "Rate: {question_1} {question_2} <{answer_1}|{answer_2}>"),
        prompt("single-math-v1", "Rate: {question} ({ref_answer_1}) <{answer}>"),
        prompt("single-math-v1-multi-turn", "Rate: {question_2} ({ref_answer_2}) <{answer_1}|{answer_2}>"),
        prompt("pair-v2", "Which? {question} <{answer_a}> <{answer_b}>"),
        prompt("pair-v2-multi-turn", "Which? {question_2} <{answer_a_1}|{answer_a_2}> <{answer_b_1}|{answer_b_2}>"),
        prompt("pair-math-v1", "Which? ({ref_answer_1}) <{answer_a}> <{answer_b}>"),
        prompt(
            "pair-math-v1-multi-turn", "Which? ({ref_answer_2}) <{answer_a_1}|{answer_a_2}> <{answer_b_1}|{answer_b_2}>"
        ),
    ]
)


class ThreeQuestions(MTBench):
    questions = QUESTIONS


def responses_of(write):
    found = {question.question_id: [] for question in QUESTIONS}
    for exchange in ThreeQuestions().respond(write):
        found[int(exchange.item_id)].append(exchange.response)
    return found


def judged(judge, function, *arguments, **more):
    from chat_server import chat_server, reply

    with chat_server(lambda request, number: reply((judge(request["messages"][-1]["content"]), {}))) as (url, requests):
        return function(QUESTIONS, *arguments, PROMPTS, ChatServer(url, "rule", max_retries=0), **more), requests


def test_the_second_turn_sees_the_first_answer_and_each_category_has_its_temperature():
    calls = []

    def write(name, dialogues, sampling):
        calls.append((name, list(dialogues), sampling.temperature))
        said = {key: f"answer {len(messages)} to {messages[-1]['content']}" for key, messages in dialogues.items()}
        return {key: Response(text, "length") for key, text in said.items()}

    responses = responses_of(write)
    assert responses[111] == [
        Response("answer 1 to 1 + 1?", "length"),
        Response("answer 3 to And doubled?", "length"),
    ]
    assert [(keys, temperature) for _, keys, temperature in calls] == [
        (["111", "112"], 0.0),
        (["81"], 0.7),
    ] * 2
    assert len({name for name, *_ in calls}) == 4


def test_the_second_turn_does_not_see_what_was_thought_in_the_first():
    seen = []

    def write(name, dialogues, sampling):
        seen.extend(messages[1]["content"] for messages in dialogues.values() if len(messages) > 1)
        thought = {"81": "<think>a, b</think>\n\nA line.", "111": "<think>1 + 1", "112": "4"}
        return {key: Response(thought[key]) for key in dialogues}

    responses_of(write)
    assert sorted(seen) == ["", "4", "A line."]


def test_every_answer_is_graded_with_the_prompt_of_its_category_and_turn():
    table, requests = judged(lambda asked: f"Fine. [[{len(re.findall('first', asked)) + 4}]]", grade_answers, ANSWERS)
    assert list(table["turn"]) == [1, 2] * 3 and list(table["score"]) == [5.0] * 6
    assert set(table["judge"]) == {"rule"} and all(request["temperature"] == 0.0 for request in requests)
    assert table.loc[3, "user_prompt"] == "Rate: And doubled? (4) <111 first|111 second>"


def test_a_judgment_without_a_score_is_kept_and_not_scored():
    table, _ = judged(lambda asked: "[[8]]" if "(" in asked else "I cannot say.", grade_answers, ANSWERS)
    assert table["score"].isna().tolist() == [True, True, False, False, False, False]
    assert table.loc[0, "judgment"] == "I cannot say."
    assert table.loc[0, "unscored_reason"] == "the judgment holds no score: 'I cannot say.'"


OTHER = {question_id: [text.upper() for text in texts] for question_id, texts in ANSWERS.items()}


def test_a_comparison_is_made_in_both_orders():
    def prefers_capitals(asked):
        first, second = re.findall("<(.*?)>", asked)
        return "[[A]]" if first.isupper() else "[[B]]" if second.isupper() else "[[C]]"

    table, requests = judged(prefers_capitals, compare_answers, ANSWERS, OTHER)
    assert len(requests) == 12 and set(table["verdict"]) == {"b"}
    assert set(table["winner"]) == {"b"} and set(table["winner_swapped"]) == {"a"}


@pytest.mark.parametrize("judgment", ["[[A]]", "[[C]]"])
def test_a_judge_that_goes_by_position_decides_nothing(judgment):
    table, _ = judged(lambda asked: judgment, compare_answers, ANSWERS, OTHER)
    assert set(table["verdict"]) == {"tie"} and set(table["unscored_reason"]) == {""}


def test_a_comparison_without_a_winner_has_no_verdict_and_a_reason():
    table, _ = judged(lambda asked: "neither" if "81" in asked else "[[C]]", compare_answers, ANSWERS, OTHER)
    assert table["verdict"].isna().tolist() == [True, True, False, False, False, False]
    assert table.loc[0, "unscored_reason"] == "the judgment names no winner: 'neither'"


def test_a_refused_cut_or_thinking_judgment_costs_its_item_only():
    from chat_server import chat_server, refusal, reply

    def answer(request, number):
        asked = request["messages"][-1]["content"]
        if "81 first|" in asked:
            return refusal(400, "flagged by our content filter")
        if "81" in asked:
            return reply(("It is a [[9]] so f", {}), finish_reason="length")
        return reply(("<think>A [[1]]? No.</think> [[7]]", {}))

    with chat_server(answer) as (url, _):
        table = grade_answers(QUESTIONS, ANSWERS, PROMPTS, ChatServer(url, "rule", max_retries=0))
    assert table["score"].isna().tolist() == [True, True, False, False, False, False]
    assert set(table["score"].dropna()) == {7.0} and set(table["judgment"][2:]) == {"[[7]]"}
    assert table["unscored_reason"].tolist() == [
        "the answer was cut at the token limit (max_tokens)",
        "the server refused the request with HTTP status 400: flagged by our content filter",
        *[""] * 4,
    ]


def test_turns_that_a_model_did_not_answer_are_not_judged():
    unanswered = {(81, 2): "filtered"}
    table, requests = judged(lambda asked: "[[8]]", grade_answers, ANSWERS, unanswered=unanswered)
    assert len(requests) == 5 and table["unscored_reason"].tolist() == ["", "filtered", *[""] * 4]
    assert table["score"].isna().tolist() == [False, True, False, False, False, False]
    table, requests = judged(lambda asked: "[[C]]", compare_answers, ANSWERS, OTHER, unanswered=unanswered)
    assert len(requests) == 10 and table["unscored_reason"].tolist() == ["", "filtered", *[""] * 4]
    assert table["verdict"].isna().tolist() == [False, True, False, False, False, False]


def test_the_second_turn_is_not_asked_where_the_first_has_no_response():
    calls = []

    def write(name, dialogues, sampling):
        calls.extend((key, len(messages)) for key, messages in dialogues.items())
        return {key: Response("", unscored_reason="refused" if key == "81" else "") for key in dialogues}

    responses = responses_of(write)
    assert sorted(calls) == [("111", 1), ("111", 3), ("112", 1), ("112", 3), ("81", 1)]
    assert [response.unscored_reason for response in responses[81]] == ["refused", "turn 1 has no response"]


def test_an_unanswered_question_is_named():
    with pytest.raises(DataError, match="question 112 was not answered"):
        judged(lambda asked: "", grade_answers, {81: ["a", "b"], 111: ["a", "b"]})
