"""Rule-based rewards: each check at its extremes and between them."""

import pytest

from rao_kedro.data.requirements import CHECKS, score_response, score_responses, sentences, words
from rao_kedro.errors import ParameterError

CASES = [
    ("max_words", {"limit": 4}, "one two three four", 1.0),
    ("max_words", {"limit": 4}, "one two three four five six", 0.5),
    ("max_words", {"limit": 4}, "one two three four five six seven eight nine", 0.0),
    ("min_words", {"limit": 4}, "one two three", 0.75),
    ("min_words", {"limit": 4}, "one two three four five", 1.0),
    ("exact_words", {"count": 4}, "one two three four", 1.0),
    ("exact_words", {"count": 4}, "one two three", 0.75),
    ("exact_sentences", {"count": 2}, "It rains. We stay!", 1.0),
    ("exact_sentences", {"count": 2}, "It rains.", 0.5),
    ("max_sentences", {"limit": 1}, "It rains. We stay. We read.", 0.0),
    ("max_sentences", {"limit": 2}, "It rains. We stay. We read.", 0.5),
    ("contains", {"keywords": ["river", "stone"]}, "The River bends.", 0.5),
    ("contains", {"keywords": ["art"]}, "The party starts.", 0.0),
    ("avoids", {"keywords": ["very", "and"]}, "Very warm.", 0.5),
    ("starts_with", {"text": "Because"}, "because it is", 1.0),
    ("starts_with", {"text": "Because"}, "It is because", 0.0),
    ("ends_with", {"text": "Cheers!"}, "To you. Cheers!", 1.0),
    ("ends_with", {"text": "Cheers!"}, "Cheers! To you.", 0.0),
    ("answer", {"accepted": ["12"]}, "12", 1.0),
    ("answer", {"accepted": ["12"]}, "3 times 4 is equal to 12.", 0.85),
    ("answer", {"accepted": ["12"]}, "120", 0.0),
    ("math_answer", {"expected": "72"}, "She sold 48 + 24 clips. The answer is 72.", 1.0),
    ("math_answer", {"expected": "72"}, "48 + 24 = 70", 0.0),
    ("math_answer", {"expected": r"\frac{1}{2}"}, r"so $x = \boxed{0.5}$", 1.0),
    ("math_answer", {"expected": "1,000"}, "They need $1000$ of them.", 1.0),
    ("math_answer", {"expected": "72"}, "I do not know.", 0.0),
    ("lowercase", {}, "all small, it's so", 1.0),
    ("lowercase", {}, "Not small", 0.25),
    ("uppercase", {}, "WET PAINT", 1.0),
    ("uppercase", {}, "WET paint", 0.25),
    ("no_commas", {}, "no comma", 1.0),
    ("no_commas", {}, "one, two, three", 1 / 3),
    ("bullet_points", {"count": 2}, "- one\n* two", 1.0),
    ("bullet_points", {"count": 2}, "Sure:\n- one\n- two", 2 / 3),
    ("bullet_points", {"count": 2}, "one, two", 0.0),
    ("numbered_list", {"count": 2}, "1. one\n2) two", 1.0),
    ("numbered_list", {"count": 2}, "1. one\n3. two", 0.25),
    ("comma_separated", {"count": 3}, "Apple, pear, plum.", 1.0),
    ("comma_separated", {"count": 3}, "Apple, pear", 2 / 3),
    ("json_object", {"keys": ["a"]}, '```json\n{"a": 1}\n```', 1.0),
    ("json_object", {"keys": ["a"]}, '{"b": 1}', 0.5),
    ("json_object", {"keys": ["a"]}, "a: 1", 0.0),
    ("quoted", {}, '"Time heals."', 1.0),
    ("quoted", {}, '"Time heals.', 0.5),
    ("question", {}, "Is it far?", 1.0),
    ("question", {}, "I see. Is it far?", 0.5),
    ("question", {}, "It is far.", 0.0),
]


@pytest.mark.parametrize(("check", "arguments", "response", "expected"), CASES)
def test_a_check_scores_as_its_docstring_says(check, arguments, response, expected):
    assert score_response(response, [{"check": check, **arguments}]) == pytest.approx(expected)


def test_every_check_is_tested_and_rates_an_empty_response_zero():
    tested = {name: arguments for name, arguments, *_ in CASES}
    assert set(tested) == set(CHECKS)
    assert all(score_response(" \n", [{"check": name, **arguments}]) == 0 for name, arguments in tested.items())


def test_the_score_is_the_mean_over_the_requirements():
    requirements = [{"check": "max_words", "limit": 2}, {"check": "ends_with", "text": "!"}]
    assert score_response("one two three!", requirements) == pytest.approx((0.5 + 1) / 2)


def test_prompts_without_requirements_have_no_rule_score():
    assert score_responses(["a"], "[]") is None
    assert score_responses(["a", ""], '[{"check": "no_commas"}]') == [1.0, 0.0]


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ([{"check": "rhymes"}], "no check 'rhymes'; known are answer, avoids"),
        ([{"check": "max_words", "most": 3}], r"check max_words: .*; it takes \(response: str, limit: int\)"),
        ([], "without requirements"),
    ],
)
def test_a_wrong_requirement_is_named_also_for_an_empty_response(requirements, message):
    for response in ("text", ""):
        with pytest.raises(ParameterError, match=message):
            score_response(response, requirements)


def test_words_and_sentences_are_split_as_a_reader_would():
    assert words("It's a well-known 3rd case, isn't it?") == ["It's", "a", "well-known", "3rd", "case", "isn't", "it"]
    assert len(sentences('He said: "Go!" Then 3.5 km later\nwe stopped.')) == 3


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("<think>One, two, three and many more words.</think>\n\nno comma", 1.0),
        ("One, two, three and many more words.</think>no comma", 1.0),  # the chat template opened the thought
        ("<think>no comma", 0.0),  # cut: there is no answer
        ("<think>no comma</think>\n", 0.0),
    ],
)
def test_rules_read_what_stands_behind_the_thinking(response, score):
    assert score_response(response, [{"check": "no_commas"}, {"check": "max_words", "limit": 2}]) == score
