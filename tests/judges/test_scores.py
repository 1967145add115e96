"""How what judges write is read: by hand, against published judgments, and against the package `alpaca_eval`."""

import math

import pytest
from assets import json_lines

from rao_kedro.evals.alpaca_eval.win_rates import import_package
from rao_kedro.judges.replies import Answer, Token
from rao_kedro.judges.scores import (
    combine_orders,
    parse_score,
    parse_winner,
    read_first_token,
    read_last_line,
    read_score_on_scale,
)

TOP = {"7": math.log(0.5), " 8": math.log(0.25), "9": math.log(0.05), "x": math.log(0.1), "0": math.log(0.1)}
EXPECTATION = (7 * 0.5 + 8 * 0.25 + 9 * 0.05) / (0.5 + 0.25 + 0.05)  # x is no score, 0 is below the scale


def read(text, *tokens, reasoning=False, how="expectation"):
    answer = Answer(text=text, tokens=[Token(text=spelled, logprobs=logprobs) for spelled, logprobs in tokens])
    return read_score_on_scale(answer, 1, 9, reasoning, how)


def test_a_score_is_the_expectation_over_the_score_tokens():
    assert read("7", ("7", TOP)) == (pytest.approx(EXPECTATION), "")
    score, why = read("7", ("7", {"x": 0.0}))
    assert math.isnan(score) and why == "there are no log-probs of the score in '7'"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\U0001f600\nScore: 7", [("\\xf0\\x9f\\x98\\x80", {}), ("\nScore", {}), (":", {"2": 0.0}), (" 7", TOP)]),
        (
            "It is so good.\nScore: 7",
            [(t, {"2": 0.0}) for t in ["It", "is", "so", "good", ".", "\n", "Score", ":"]] + [("7", TOP)],
        ),
        (
            "Score: 7/9",
            [("Is it 2", {"2": 0.0}), (" or 3?", {"3": 0.0}), ("Score:", {}), (" 7", TOP), ("/", {}), ("9", {})],
        ),
        ("Score: 7", [("Score:", {}), (" 7", TOP), ("<|im_end|>", {"2": 0.0})]),
    ],
    ids=["bytes", "no spaces", "hidden reasoning", "end of turn"],
)
def test_the_score_token_is_found_where_tokens_and_text_differ(text, tokens):
    assert read(text, *tokens, reasoning=True) == (pytest.approx(EXPECTATION), "")


@pytest.mark.parametrize(
    ("said", "reasoning"),
    [
        *[(said, False) for said in ("7.", "**7**", "7/9", "**Score: 7**", "7\n\nIt is")],
        *[(said, True) for said in ("**Score:** 7", "Score: 2\nScore: 7 (good)", "score: 7 out of 9.")],
    ],
)
def test_a_score_may_be_dressed_up(said, reasoning):
    assert read(said, reasoning=reasoning, how="text") == (7.0, "")


@pytest.mark.parametrize(
    ("said", "reasoning"),
    [(said, False) for said in ("It is good.", "10", "0", "7.5", "I give it a 7", "1. The response", "7/10", "-7")]
    + [(said, True) for said in ("7", "Score: 7\nScore: 10", "Score:\n1. Correct", "Score: -3", "Score: 7/10")],
)
def test_an_answer_without_a_score_of_the_scale_is_a_failure_that_quotes_it(said, reasoning):
    score, why = read(said, (said, TOP), reasoning=reasoning)
    assert math.isnan(score) and why == f"the judge gave no score: {said!r}"


def test_every_published_score_is_read():
    judgments = json_lines("mt_bench/judgments-gpt-4_single-a.jsonl.gz")
    assert len(judgments) == 160
    assert [parse_score(row["judgment"]) for row in judgments] == [row["score"] for row in judgments]


@pytest.mark.parametrize(
    ("judgment", "score"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("First I thought [[7.5]], but Rating: [[3]]", 3.0),
        ("Rating: [[10]]", 10.0),
        ("Rating: [8]", 8.0),
        ("**Rating**: [8.5]. See [1].", 8.5),
        ("Rating: [8], or rather\n\n**[6]**", 6.0),
        ("My score is [4]", 4.0),
        ("Rating: [[7]], not [[85]]", 7.0),
        ("Rating: [[85]]", None),
        ("Rating: [[0]] or [[11]]", None),
        ("The code reads arr[0], arr[1] and, in R, list[[2]].", None),
        ("see [1]", None),
        ("As [1] says, the answer is wrong [2].", None),
        ("score[7] is an index, rating [7](of) a link", None),
        ("I rate it 8/10.", None),
        ("Rating: [[ten]]", None),
        ("", None),
    ],
)
def test_the_last_score_from_1_to_10_in_brackets_counts(judgment, score):
    assert parse_score(judgment) == score


@pytest.mark.parametrize(
    ("judgment", "winner"),
    [
        ("so [[A]]", "a"),
        ("so [[B]]", "b"),
        ("so [[C]]", "tie"),
        ("At first [[A]] seems better, but [[B]]", "b"),
        ("[[B]]? No: [[A]]. They are not equal, which would be [C].", "a"),
        ("the code reads rows[[A]]", None),
        ("A is better", None),
    ],
)
def test_the_last_verdict_in_brackets_counts(judgment, winner):
    assert parse_winner(judgment) == winner


@pytest.mark.parametrize(
    ("first", "swapped", "winner"),
    [("a", "b", "a"), ("b", "a", "b"), ("a", "a", "tie"), ("b", "b", "tie"), ("tie", "tie", "tie"), ("a", None, None)],
)
def test_a_model_wins_only_in_both_orders(first, swapped, winner):
    assert combine_orders(first, swapped) == winner


def test_an_answer_that_names_neither_output_is_no_preference():
    assert math.isnan(read_first_token(Answer(text="I", tokens=[Token(text="I", logprobs={"I": -0.1})])))
    assert math.isnan(read_first_token(Answer(text="")))
    named = Answer(text="m", tokens=[Token(text="m", logprobs={"m": math.log(0.6), "M": math.log(0.2), "?": -2.0})])
    assert read_first_token(named) == pytest.approx(2 - 0.6 / 0.8)


@pytest.mark.parametrize(
    "logprobs", [{"m": -0.1, "M": -2.3, "x": -4.0}, {"M": -0.5}, {"m": -0.5, " M": -1.0}, {"m": -30.0, "M": -1e-9}]
)
def test_a_preference_is_the_one_that_alpaca_eval_reads(logprobs):
    top = [{"token": token, "logprob": logprob} for token, logprob in logprobs.items()]
    [expected] = import_package("completion_parsers").logprob_parser(
        {"logprobs": {"content": [{"top_logprobs": top}]}}, "m", ["m", "M"], is_binarize=False
    )
    assert read_first_token(Answer(text="m", tokens=[Token(text="m", logprobs=logprobs)])) == expected


@pytest.mark.parametrize("said", ["I'm not sure", "m or M", "", "Mm", "m\nBoth are good."])
def test_a_text_that_names_no_output_on_its_last_line_is_no_verdict(said):
    assert math.isnan(read_last_line(Answer(text=said)))
