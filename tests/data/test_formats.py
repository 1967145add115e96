"""Formats: what a row of each becomes, and how its columns show it."""

from typing import get_args

import pytest
from preference_rows import ROWS, USER, assistant

from rao_kedro.config.data_engineering import FormatName
from rao_kedro.data.formats import FORMATS, read_trl, sniff
from rao_kedro.data.quarantine import UnusableRow


def text(response):
    return None if isinstance(response, UnusableRow) else response


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_of_every_format_is_recognised_and_read(name):
    row, rated = ROWS[name]
    assert sniff(row) == name
    group = FORMATS[name].read(row)
    assert group.messages == USER
    assert dict(zip(map(text, group.responses), group.ratings, strict=True)) == (rated or {"a": 1, "b": 0})


def test_every_format_can_be_named_in_the_parameters():
    assert set(get_args(FormatName)) == {"auto", *FORMATS}


SIBLINGS = [
    ("trl", {"prompt": "Hi?", "chosen": "a", "rejected": ["b", "c"]}, {"a": 1, "b": 0, "c": 0}),
    ("trl", {"prompt": "Hi?", "chosen": "a", "rejected": [assistant("b"), assistant("c")]}, {"a": 1, "b": 0, "c": 0}),
    ("trl", {"question": "Hi?", "chosen": "a", "rejected": "b"}, {"a": 1, "b": 0}),
    (
        "trl",
        {"prompt": "Hi?", "chosen": "a", "rejected": "b", "responses": ["a", "b"], "images": None},
        {"a": 1, "b": 0},
    ),
    ("trl", {"prompt": "", "chosen": [*USER, assistant("a")], "rejected": [*USER, assistant("b")]}, {"a": 1, "b": 0}),
    (
        "trl",
        {"messages": [*USER, assistant("a")], "chosen": [*USER, assistant("a")], "rejected": [*USER, assistant("b")]},
        {"a": 1, "b": 0},
    ),
    ("trl", {"messages": USER, "chosen": assistant("a"), "rejected": assistant("b")}, {"a": 1, "b": 0}),
    ("rated", {"prompt": "Hi?", "responses": ["a", "b"], "ratings": [5, 2], "score": "good"}, {"a": 5, "b": 2}),
    # HuggingFaceH4's binarised UltraFeedback repeats the chosen dialogue in `messages`.
    (
        "trl",
        {
            "prompt": "Hi?",
            "messages": [*USER, assistant("a")],
            "chosen": [*USER, assistant("a")],
            "rejected": [*USER, assistant("b")],
            "score_chosen": 8.0,
            "score_rejected": 6.5,
        },
        {"a": 8, "b": 6.5},
    ),
    ("sharegpt", {"conversations": USER, "chosen": "a", "rejected": "b"}, {"a": 1, "b": 0}),
    ("distilabel", {"instruction": "Hi?", "generations": '["a", "b"]', "rating": "[5, 2]"}, {"a": 5, "b": 2}),
    ("rated", {"prompt": "Hi?", "candidates_completions": ["a", "b"], "ranks": [2, 1]}, {"a": -2, "b": -1}),
    ("rated", {"prompt": "Hi?", "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]}, {"a": 1, "b": 2}),
    (
        "rated",
        {"prompt": "Hi?", "responses": [{**assistant("a"), "rank": 1}, {**assistant("b"), "rank": 2}]},
        {"a": -1, "b": -2},
    ),
    (
        "rated",
        {"prompt": "Hi?", "completions": [{"text": "a"}, {"text": "b"}], "scores": ["4/5", "3/5"]},
        {"a": 4, "b": 3},
    ),
    (
        "rated",
        {"prompt": "Hi?", "chosen": "a", "rejected": "b", "responses": ["a", "b"], "ratings": [5, 2]},
        {"a": 5, "b": 2},
    ),
    (
        "helpsteer3",
        {"prompt": "Hi?", "response_1": "a", "response_2": "b", "preference_strength": 1},
        {"a": -0.5, "b": 0.5},
    ),
    ("unpaired", {"messages": [*USER, assistant("a")], "label": "false"}, {"a": 0}),
    ("helpsteer2", {"instruction": "Hi?", "output": "a", "score": "4/5"}, {"a": 4}),
]


@pytest.mark.parametrize(("name", "row", "rated"), SIBLINGS)
def test_siblings_of_a_format_are_read_too(name, row, rated):
    assert sniff(row) == name
    group = FORMATS[name].read(row)
    assert group.messages == USER
    assert dict(zip(map(text, group.responses), group.ratings, strict=True)) == rated


def test_a_completion_of_several_messages_is_not_several_responses():
    row = {"prompt": "Hi?", "chosen": [assistant("a"), assistant("b")], "rejected": "c"}
    problem, good = read_trl(row).responses
    assert (
        problem.reason == "bad_dialogue"
        and "two consecutive messages of the assistant" in problem.detail
        and good == "c"
    )
    assert read_trl(row | {"chosen_rating": [3, 2], "rejected_rating": 1}).responses == ["a", "b", "c"]


def test_the_rating_key_names_the_field_in_every_format():
    read = {name: known.read for name, known in FORMATS.items()}
    assert read["safe_rlhf"](ROWS["safe_rlhf"][0], rating_key="safer_response_id").ratings == [1, 0]
    assert read["helpsteer2"](ROWS["helpsteer2"][0], rating_key="coherence").ratings == [4]
    nested = [{"text": "a", "score": {"overall": 1}}, {"text": "b", "score": {"overall": 2}}]
    assert read["rated"]({"prompt": "Hi?", "responses": nested}, rating_key="score.overall").ratings == [1, 2]
    problem = read["rated"]({"prompt": "Hi?", "responses": nested}).responses[0]
    assert "set rating_key to one of score.overall" in problem.detail
    with pytest.raises(UnusableRow, match="no columns chosen_taste and rejected_taste"):
        read["hh_rlhf"](ROWS["hh_rlhf"][0], rating_key="taste")
