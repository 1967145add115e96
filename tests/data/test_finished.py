"""Whether responses were finished or cut, as rows say it."""

import pytest
from preference_rows import USER, assistant

from rao_kedro.data.formats import FORMATS, sniff
from rao_kedro.data.quarantine import UnusableRow


@pytest.mark.parametrize(
    ("row", "finished"),
    [
        ({"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "finished": [True, False]}, [True, False]),
        (
            {"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "finish_reasons": ["length", "stop"]},
            [False, True],
        ),
        ({"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "truncated": "[1, 0]"}, [False, True]),
        ({"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "finish_reason": "eos"}, [True, True]),
        (
            {
                "prompt": "Hi?",
                "responses": [
                    {"text": "a", "rating": 1, "finish_reason": "MAX_TOKENS"},
                    {"text": "b", "rating": 2, "truncated": False},
                    {"text": "c", "rating": 3},
                ],
            },
            [False, True, True],
        ),
        ({"prompt": "Hi?", "chosen": "a", "rejected": "b", "rejected_finish_reason": "length"}, [True, False]),
        (
            {"prompt": "Hi?", "chosen": "a", "rejected": "b", "truncated-chosen": True, "truncated-rejected": 0},
            [False, True],
        ),
        (
            {
                "prompt": "Hi?",
                "chosen": [*USER, {**assistant("a"), "finish_reason": "length"}],
                "rejected": [*USER, assistant("b")],
            },
            [False, True],
        ),
        ({"prompt": "Hi?", "chosen": "a", "rejected": "b", "finish_reason": None}, None),
        (
            {"prompt": "Hi?", "chosen": "a", "rejected": "b", "chosen_finish_reason": "", "stop_reason": float("nan")},
            None,
        ),
        ({"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "stop_reason": [2, "</end>"]}, [True, True]),
        (
            {
                "prompt": "Hi?",
                "responses": [
                    {"text": "a", "rating": 1, "finished": True, "finish_reason": "length"},
                    {"text": "b", "rating": 2, "finish_reason": ""},
                ],
            },
            [False, True],
        ),
        ({"prompt": "Hi?", "response": "a", "rating": 1, "finish_reason": "length"}, [False]),
    ],
)
def test_cut_responses_are_known_where_the_row_says_so(row, finished):
    assert FORMATS[sniff(row)].read(row).finished == finished


@pytest.mark.parametrize(
    ("value", "message"), [([True], "1 values for 2 responses"), (["a", "b"], "'a' is not one of")]
)
def test_what_a_column_of_finished_responses_cannot_say(value, message):
    row = {"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "finished": value}
    with pytest.raises(UnusableRow, match=message):
        FORMATS["rated"].read(row)
