"""A bad row is quarantined with its reason: it neither ends a run nor takes a good row with it."""

from dataclasses import replace

import pytest
from preference_rows import ROWS, assistant, read_train_rows

from rao_kedro.data.formats import FORMATS


def test_a_file_may_mix_formats_and_nulls(tmp_path):
    nulls = dict.fromkeys(("prompt", "chosen", "rejected", "instruction", "completions", "responses", "ratings"))
    rows = [nulls | ROWS[name][0] for name in ("trl", "distilabel", "nemo_rl")]
    rows = [{**row, "system": f"Number {i}."} for i, row in enumerate(rows)]
    found, quarantined = read_train_rows(tmp_path, [*rows, {"prompt": "Hi?", "chosen": "a"}, {"what": 1}])
    assert list(found["source"]) == [f"train.jsonl:{i}" for i in (1, 2, 3)]
    # A row that fits no format is read as the one before it, so that what it lacks can be named.
    assert quarantined == [("train.jsonl:4", "missing_column"), ("train.jsonl:5", "missing_column")]


def test_a_group_loses_only_responses_that_cannot_be_read(tmp_path):
    call = {**assistant("x"), "tool_calls": [{"function": {"name": "f"}}]}
    responses = ["a", None, "b", [call], "\u200b", "c\ud83d", {"role": "user", "content": "d"}, "e"]
    rows = [{"prompt": "Hi?", "responses": responses, "ratings": [1, 2, 3, 4, 5, 6, 7, True]}]
    found, quarantined = read_train_rows(tmp_path, rows)
    assert (found["responses"].item(), found["ratings"].item()) == (["a", "b"], [1, 3])
    reasons = ["empty_response", "tool_call", "invalid_text", "bad_dialogue", "bad_rating"]
    assert [reason for _, reason in quarantined] == reasons


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "chosen": "a", "rejected": "b", "metadata": '{"score_chosen": {}}'},
        {"prompt": "x", "chosen": {"role": ["user"]}, "rejected": "b"},
        {"prompt": {"content": 3}, "chosen": "a", "rejected": "b"},
        {"prompt": "x", "responses": 3, "ratings": [1]},
        {"prompt": "x", "responses": [[]], "ratings": {"a": 1}},
        {"prompt": "x", "response": "a", "helpfulness": {"a": []}},
        {"instruction": "x", "completions": ["a", {"response": {}}]},
        {"prompt": "x", "answers": {"answer": "a"}},
        {"chosen": None, "rejected": None},
        {"prompt": "x", "chosen": [], "rejected": []},
        {"prompt": "x", "chosen": "a", "rejected": "b", "requirements": "[[[["},
        {"prompt": "x", "chosen": "a", "rejected": "b", "requirements": 5},
        {"prompt": "x", "chosen": "a", "rejected": "b", "history": 5},
        {"\ud83d": 1, "prompt": "\ud83d", "chosen": "a", "rejected": "b"},
        {"prompt": "x", "completion": "a", "label": {}},
        {"context": 1, "response1": 1, "response2": [], "overall_preference": "x"},
    ],
)
def test_no_row_ends_a_run(tmp_path, row):
    found, quarantined = read_train_rows(tmp_path, [ROWS["trl"][0], row])
    assert found["source"].item() == "train.jsonl:1" and [source for source, _ in quarantined] == ["train.jsonl:2"]


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), RecursionError("x"), KeyError("x")])
def test_an_exception_of_a_row_is_quarantined_with_its_type(tmp_path, monkeypatch, error):
    def failing(row, rating_key=None):
        if row["prompt"] == "bad":
            raise error
        return FORMATS["alpaca"].read(row | {"instruction": row["prompt"]})

    monkeypatch.setitem(FORMATS, "trl", replace(FORMATS["trl"], read=failing))
    found, quarantined = read_train_rows(tmp_path, [ROWS["trl"][0], ROWS["trl"][0] | {"prompt": "bad"}])
    assert len(found) == 1 and quarantined == [("train.jsonl:2", "unreadable")]
