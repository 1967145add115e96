"""Rows of one response each become groups: consecutive rows of a prompt, or all of them."""

import json

from preference_rows import read_train_rows

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data import groups
from rao_kedro.data.groups import building_groups


def test_consecutive_rows_of_a_prompt_are_one_group(tmp_path):
    def row(prompt, response, rating):
        return {"prompt": prompt, "response": response, "helpfulness": rating, "finish_reason": "stop"}

    rows = [
        row("p", "a", 4),
        row("p", "b", 1),
        row("p", "c", None),
        row("q", "a", 1),
        row("r", "a", 2),
        row("r", "a", 3),
    ]
    found, quarantined = read_train_rows(tmp_path, [*rows, row("p", "d", 1)])
    group = found.iloc[0]
    assert (group["responses"], group["ratings"], group["finished"]) == (["a", "b"], [4, 1], [True, True])
    assert group["source"] == "train.jsonl:1 + train.jsonl:2 + train.jsonl:3" and len(found) == 1
    assert quarantined == [
        (group["source"], "unrated_response"),
        ("train.jsonl:4", "unpaired_response"),
        ("train.jsonl:5 + train.jsonl:6", "contradictory_ratings"),
        ("train.jsonl:7", "unpaired_response"),
    ]


def test_consecutive_rows_are_given_on_before_the_file_ends(tmp_path, monkeypatch):
    seen, read = [], groups.read_rows
    rows = [{"prompt": p, "response": r, "helpfulness": i} for i, (p, r) in enumerate(("pa", "pb", "qa", "qb"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def watched(source):
        for row in read(source):
            yield row
            seen.append(builder.counts.total())

    monkeypatch.setattr(groups, "read_rows", watched)
    with building_groups(tmp_path) as builder:
        builder.read("train", PreferenceSource(path=str(tmp_path / "rows.jsonl")))
    assert seen == [0, 0, 1, 1] and builder.counts.total() == 2


def test_labelled_rows_of_a_prompt_are_one_group_wherever_they_stand(tmp_path):
    def row(prompt, completion, label):
        return {"prompt": prompt, "completion": completion, "label": label}

    rows = [row("p", "a", True), row("q", "a", True), row("r", "a", False), row("p", "b", False), row("q", "b", 1)]
    found, quarantined = read_train_rows(tmp_path, rows)
    assert found["source"].item() == "train.jsonl:1 + train.jsonl:4"
    assert found["ratings"].item() == [1, 0] and found["rated_by"].item() == "label"
    assert quarantined == [
        ("train.jsonl:2 + train.jsonl:5", "unpaired_response"),
        ("train.jsonl:3", "unpaired_response"),
    ]


def test_rows_of_one_prompt_rated_by_different_fields_or_scales_are_no_group(tmp_path):
    rows = [{"prompt": "p", "response": r, "rating": v} for r, v in (("a", "4/5"), ("b", "7/10"))]
    good = [{"prompt": "q", "response": r, "rating": v} for r, v in (("a", "4/5"), ("b", "3/5"))]
    found, quarantined = read_train_rows(tmp_path, [*rows, *good])
    assert found["rated_by"].item() == "rating (of 5)"
    assert quarantined == [("train.jsonl:1 + train.jsonl:2", "bad_rating")]
