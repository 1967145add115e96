"""Answers of chains of thought: the forms that models write them in, and the forms that are no answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import parse, verify

from rao_kedro.errors import DataError
from rao_kedro.evals.downstream.answers import agreement, extract_answer, read_labelled
from rao_kedro.evals.downstream.choice_answers import extract_choice
from rao_kedro.evals.downstream.number_answers import extract_number, parse_number

PLANETS = (
    "Planetary density will decrease.",
    "Planetary years will become longer.",
    "Planetary days will become shorter.",
    "Planetary gravity will become stronger.",
)
FEELINGS = ("horrible", "like a person who was unable to help", "horrible that he left")
AMOUNTS = ("38", "27.675", "30", "data inadequate", "none of these")
BODIES = ("a planet", "a moon", "the sun", "A star")
PROMPTED = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", PLANETS, strict=True))


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("She sells 9 eggs.\n#### 7", "7"),
        ("#### $1,000", "1000"),
        ("The answer is $1,234.50.", "1234.5"),
        ("The answer is 2,125 miles", "2125"),
        ("The answer is 20,000", "20000"),
        ("the answer is 18 dollars per day for 7 days.", "18"),
        ("The answer is 18. I checked it 3 times.", "18"),
        ("The answer is 18 because 5+4=9 is half of it.", "18"),
        ("The answer is 3 * 6 = 18.", "18"),
        ("The answer is: Janet makes 9 * 2 = **$18** per day", "18"),
        ("The answer is Rs. 129.", "129"),
        ("The answer is 25%.", "25"),
        ("The answer is 1.5 million.", "1500000"),
        ("The answer is five.", "5"),
        ("The answer is -5.", "-5"),
        ("The answer is -$5", "-5"),
        ("The answer is $-5", "-5"),
        ("The answer is \u22125 degrees.", "-5"),
        ("The answer is 12 - 10 = -2", "-2"),
        ("The answer is 3/4.", "0.75"),
        ("The answer is 1/3.", "1/3"),
        ("The answer is 2 1/2 hours", "2.5"),
        ("The answer is 18.00", "18"),
        ("The answer to the question is: 18 dollars", "18"),
        ("Answer (in dollars): 18", "18"),
        ("**Answer:** 42 apples", "42"),
        ("It costs $5 more. The answer is\n\n$20", "20"),
        ("So \\boxed{\\$18}.", "18"),
        ("\\boxed{-12}", "-12"),
        ("The final answer is: $\\boxed{1,000}$", "1000"),
        ("The final answer is: $\\boxed{1{,}000}$", "1000"),
        ("$\\boxed{\\frac{1}{2}}$", "0.5"),
        ("$\\boxed{18 \\text{ eggs}}$", "18"),
        ("The answer is $\\$18$", "18"),
        ("\\[ 9 \\times 2 = 18 \\]", "18"),
        ("Answer: 18\nWait, I forgot 2 eggs. The answer is 20.", "20"),
        ("#### Step 1: 3 eggs\nIn the end 5", "5"),
        ('End with "The answer is X."\n\n3 and 4 are 7', "7"),
        ("To answer this question, we need:\n3 eggs. That is 4 in total", "4"),
        ("The answer is one of them. So 4.", "4"),
        ("It is **18 dollars** for 3 days", "18"),
        ("1. Take 3.\n2. So 18 eggs remain", "18"),
        ("She makes 9 * 2 = $18", "18"),
        ("There are 15 eggs in 2 days.", "15"),
        ("There are 15 eggs, so each gets 5", "5"),
        ("10-12", "12"),
        ("She has 18 eggs left [1].", "18"),
        ("18 eggs are left, see [1] and [2]", "18"),
        ("It prints the 7 of arr[0]", "7"),
        ("The answer is arr[0] = 7.", "7"),
        ("The answer is 18 [1].", "18"),
        ("The answer is [18].", "18"),
        ("There remain [18]", "18"),
        ("I cannot answer this.", None),
        ("", None),
        ("9" * 6000, None),
    ],
)
def test_a_number_is_read_from_the_last_statement_or_else_the_last_number(output, number):
    assert extract_number(output) == number


@given(st.integers(-(10**9), 10**9), st.sampled_from(["", ".", " dollars.", "%", ".0", ".00"]), st.booleans())
def test_any_integer_is_read_in_any_dress(number, end, separators):
    said = f"{number:,}" if separators else str(number)
    for statement in (
        f"The answer is {said}{end}",
        f"3 eggs.\n#### {said}",
        f"5 \\boxed{{{said}}}",
        f"**{said}{end}**",
    ):
        assert extract_number(statement) == str(number)


@pytest.mark.parametrize(
    "output",
    ["#### 7", "The answer is $1,234.50.", "\\boxed{-12}", "The answer is $\\frac{3}{4}$", "It is 2,125 miles."],
)
def test_numbers_agree_with_math_verify(output):
    assert verify(parse(f"${extract_number(output)}$"), parse(output))


@pytest.mark.parametrize(
    "output",
    [
        "1. Two boxes fit on 3 tables.\n2. Two boxes fit on 3 tables.\n3. Two boxes fit on 3",
        "Step 1: " + "2x + " * 60,
    ],
    ids=["a repeated line", "a long line"],
)
def test_a_loop_that_breaks_off_is_no_answer_unless_one_was_stated(output):
    assert extract_number(output) is None
    assert extract_number(f"The answer is 9.\n{output}") == "9"


def test_numbers_are_written_one_way():
    assert [parse_number(text) for text in ("$1,234.50", "1234.5", " 2/6 ", "38 %", "10 cm")] == [
        "1234.5",
        "1234.5",
        "1/3",
        "38",
        "10",
    ]
    assert parse_number("3 or 4") is None and parse_number("none") is None and parse_number("") is None


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("The answer is (B)", "B"),
        ("The answer is B.", "B"),
        ("The answer is b.", "B"),
        ("The answer is a.", "A"),
        ("The answer is A because it is dense.", "A"),
        ("**B**", "B"),
        ("B", "B"),
        ("(B)", "B"),
        ("option b", "B"),
        ("Option B", "B"),
        ("B. Planetary days", "B"),
        ("B. Planetary years will become longer.\n\nExplanation: it is not A, since that is light.", "B"),
        ("Answer: B) because", "B"),
        ("**Answer:** B", "B"),
        ("**Answer:**\n\nB", "B"),
        ("Answer: The correct answer is C", "C"),
        ("The correct answer is **C. Planetary days will become shorter.**", "C"),
        ("the correct answer is option b.", "B"),
        ("The best answer would be C", "C"),
        ("The most reasonable option in this situation is (A) since", "A"),
        ("The answer is the third option, (C)", "C"),
        ("The answer is: $\\boxed{\\text{A}}$.", "A"),
        ("\\boxed{B}", "B"),
        ("$\\boxed{\\textbf{(B)}}$", "B"),
        ("Therefore B is the correct answer.", "B"),
        ("Option D would be the most appropriate.", "D"),
        ("So the gravity rises, (D) is correct.", "D"),
        ("A or B? I choose B because of its mass", "B"),
        ("The answer is B, not A.", "B"),
        ("The answer is B, and C is wrong", "B"),
        ("Option A is incorrect. So, the answer is D", "D"),
        ("A is right at first sight. The answer is B. C is too light.", "B"),
        ("The answer is D.\n\nI made a mistake. The answer is B.", "B"),
        ("The answer is Planetary days will become shorter.", "C"),
        ('The answer is "planetary days will become shorter".', "C"),
        ("It spins faster. Therefore, planetary days will become shorter.", "C"),
        (f"{PROMPTED}\n\nB", "B"),
        ("Planetary days will become shorter", "C"),
        ("Planetary days will become shorter is the most likely. Planetary density is another matter.", "C"),
        ("The answer is B. The answer is 7.", None),
        ('It is the answer to the question "Will planetary days become shorter"', None),
    ],
)
def test_a_choice_is_read_from_the_last_statement(output, letter):
    assert extract_choice(output, PLANETS) == letter


@pytest.mark.parametrize(
    "output",
    [
        "",
        "I am not sure.",
        "I think that it spins faster",
        "The answer is A or B",
        "The answer is (A) and (B).",
        "A, B and C may be true. The answer is unclear.",
        "The answer is not A. It is dense.",
        "The answer is A planet.",
        'End with "The answer is X."',
        PROMPTED,
        f"Choices:\n{PROMPTED}",
        "- **A. Planetary density will decrease.** No.\n- **B. Planetary years will become longer.** Maybe.",
        "It may be that planetary days will become",
        "The answer is E.",
    ],
)
def test_without_one_choice_nothing_is_guessed(output):
    assert extract_choice(output, PLANETS) is None


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("<think>The answer is 7.</think>\n\nThe answer is 18.", "18"),
        ("The answer is 7.</think>The answer is 18.", "18"),  # the chat template opened the thought
        ("<think>The answer is 18.", None),
        ("<think>The answer is 18.</think>\nI cannot say.", None),
        ("The tag <think> opens a thought. The answer is 18.", "18"),
    ],
)
def test_an_answer_is_read_behind_the_thinking_and_never_in_it(output, answer):
    assert extract_answer(output) == answer
    letters = {"18": "B", "7": "A", None: None}
    assert extract_answer(output, ("7", "18")) == letters[answer]


@pytest.mark.parametrize(
    ("output", "choices", "letter"),
    [
        ("The answer is a planet", BODIES, "A"),
        ("The answer is A planet", BODIES, "A"),
        ("The answer is a moon.", BODIES, "B"),
        ("The answer is A star", BODIES, "D"),
        ("The answer is 38.", AMOUNTS, "A"),
        ("The answer is $38", AMOUNTS, "A"),
        ("The answer is 38%", AMOUNTS, "A"),
        ("27.675 is near, but the answer is 30.00", AMOUNTS, "C"),
        ("The answer is none of these", AMOUNTS, "E"),
        ("The answer is (A) 38, not (B).", AMOUNTS, "A"),
        ("The answer is E = mc^2", AMOUNTS, None),
        ("The answer is 31.", AMOUNTS, None),
        ("The answer is 1,000.", ("100", "1000"), "B"),
        ("The ratio is 1:72. The answer is 1:72.", ("1 : 27", "1 : 72"), "B"),
        ("The answer is 5", ("5", "5", "6"), None),  # MathQA has such rows
        ("Alex would feel horrible that he left.", FEELINGS, "C"),
        ("The answer is horrible", FEELINGS, "A"),
        ('The answer "horrible" fits best', FEELINGS, "A"),
    ],
)
def test_a_choice_may_be_named_by_its_text_or_number(output, choices, letter):
    assert extract_choice(output, choices) == letter


def test_choices_may_be_labelled_by_digits():
    for output in ("The answer is 2.", "2", "2) Planetary years", "\\boxed{2}", "Answer: option 2"):
        assert extract_choice(output, PLANETS, labels="1234") == "2"
        assert extract_choice(output, PLANETS) is None
    assert extract_choice("The answer is 2 planets.", PLANETS, labels="1234") is None


@given(st.text(max_size=200), st.sampled_from([(), PLANETS, AMOUNTS]))
def test_any_text_gives_an_answer_of_the_question_or_none(output, choices):
    answer = extract_answer(output, choices)
    assert answer is None or (answer in "ABCDE"[: len(choices)] if choices else parse_number(answer) == answer)


def labelled(tmp_path, *rows):
    path = tmp_path / "labelled.jsonl"
    path.write_text(
        "\n".join(json.dumps({"task": "t", "prompt": "?", "output": "The answer is 5."} | row) for row in rows)
    )
    return path


def test_agreement_with_labels_is_measured(tmp_path):
    rows = [
        {"label": "$5.00"},
        {"label": 5},
        {"label": 6},
        {"label": None},
        {"label": "B", "choices": ["4", "5"]},
        {"output": "Hm.", "label": None, "choices": ["4", "5"]},
    ]
    table = agreement(read_labelled(labelled(tmp_path, *rows)))
    assert list(table["agrees"]) == [True, True, False, False, True, True]
    assert table["extracted"].tolist()[:5] == ["5", "5", "5", "5", "B"] and table["extracted"].isna().sum() == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "expected a JSON object with task, prompt, output and label"),
        ({"label": "C", "choices": ["4", "5"]}, "'C' is neither null nor a letter of a choice"),
        ({"label": "B or C"}, "'B or C' is neither null nor a number"),
    ],
)
def test_a_label_that_cannot_be_compared_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=rf"labelled.jsonl:2: .*{message}"):
        read_labelled(labelled(tmp_path, {"label": None}, row))
