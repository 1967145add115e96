"""Prompt groups from published formats, and what happens to rows that cannot be used."""

import gzip
import json
from dataclasses import replace

import pandas as pd
import pytest
from assets import ASSETS
from data_tables import frame, read_preferences

from rao_kedro.config.data_engineering import PreferenceFiles, PreferenceSource
from rao_kedro.data.formats import read_hh_rlhf, read_rated, read_trl, read_ultrafeedback, sniff
from rao_kedro.data.quarantine import NoGroupsLeftError
from rao_kedro.data.readers import read_rows
from rao_kedro.data.tables import PreferenceGroupTable, QuarantineTable
from rao_kedro.errors import DataError

USER = [{"role": "user", "content": "Hi?"}]


def write_jsonl(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return PreferenceSource(path=str(path))


def pair(prompt="Hi?", chosen="good", rejected="bad", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def read(tmp_path, rows, held_out=None):
    files = PreferenceFiles(
        train=write_jsonl(tmp_path / "train.jsonl", rows),
        test=write_jsonl(tmp_path / "test.jsonl", held_out or [pair("held out")]),
    )
    groups, quarantined = read_preferences(files)
    PreferenceGroupTable.validate(groups)
    QuarantineTable.validate(quarantined)
    return groups, quarantined


def chat(answer):
    return [*USER, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_rows_requirements_travel_with_it_and_unknown_ones_are_quarantined(tmp_path, as_json):
    known, unknown = ([{"check": name, "expected": "4"}] for name in ("math_answer", "rhymes"))
    rows = [pair(requirements=json.dumps(r) if as_json else r, prompt=str(i)) for i, r in enumerate((known, unknown))]
    groups, quarantined = read(tmp_path, rows)
    by_split = groups.set_index("split")["requirements"]
    assert json.loads(by_split["train"]) == known and by_split["test"] == "[]"
    assert list(quarantined["reason"]) == ["bad_type"] and "there is no check 'rhymes'" in quarantined["detail"][0]


@pytest.mark.parametrize(
    "row",
    [
        pair(score_chosen=9, score_rejected=4.5),
        pair(metadata={"score_chosen": 9, "score_rejected": 4.5}),
        pair(prompt=USER, chosen=chat("good")[1:], rejected=chat("bad")[1:], score_chosen=9, score_rejected=4.5),
        pair(prompt="Hi?", chosen=chat("good"), rejected=chat("bad"), score_chosen=9, score_rejected=4.5),
        {"chosen": chat("good"), "rejected": chat("bad"), "score_chosen": 9, "score_rejected": 4.5},
    ],
    ids=["plain", "metadata", "conversational", "binarised", "implicit prompt"],
)
def test_every_form_of_a_pair_is_the_same_group(row):
    group = read_trl(row)
    assert (group.messages, group.responses, group.ratings) == (USER, ["good", "bad"], [9.0, 4.5])
    assert sniff(row) == "trl"


def test_ultrafeedback_completions_are_rated_by_their_fine_grained_score_or_the_key_that_is_named():
    completions = [
        {"response": "a", "fine-grained_score": 3.5, "overall_score": 8},
        {"response": "b", "fine-grained_score": 4.0, "overall_score": 2},
    ]
    row = {"instruction": "Hi?", "completions": completions}
    assert read_ultrafeedback(row).ratings == [3.5, 4.0]
    assert read_ultrafeedback(row, rating_key="overall_score").ratings == [8.0, 2.0]
    assert sniff(row) == "ultrafeedback"


def test_a_transcript_is_cut_before_its_last_answer():
    start = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: "
    row = {"chosen": start + "good", "rejected": start + "bad"}
    group = read_hh_rlhf(row)
    assert [message["role"] for message in group.messages] == ["user", "assistant", "user"]
    assert group.responses == ["good", "bad"] and group.messages[-1]["content"] == "three"
    assert sniff(row) == "hh_rlhf"


def test_rated_lists_are_read_as_lists_or_as_objects():
    as_lists = read_rated({"prompt": "Hi?", "responses": ["a", "b", "c"], "ratings": [1, 2, 3]})
    as_objects = read_rated(
        {"instruction": "Hi?", "responses": [{"output": t, "x": r} for t, r in zip("abc", (1, 2, 3), strict=True)]},
        rating_key="x",
    )
    assert (as_lists.rated_by, as_objects.rated_by) == ("ratings", "x")
    assert as_lists == replace(as_objects, rated_by="ratings")


def test_unknown_columns_are_named_with_the_formats_that_are_known(tmp_path):
    with pytest.raises(
        DataError, match=r"unknown_format 1 times, .* train\.jsonl:1: columns answer, question fit .*`columns`.* trl"
    ):
        read(tmp_path, [{"question": "a", "answer": "b"}])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json", "invalid_json"),
        ('"text"', "invalid_json"),
        ({"prompt": "x", "chosen": "a"}, "missing_column"),
        (pair(chosen=3), "bad_type"),
        (pair(prompt=" "), "empty_prompt"),
        (pair(prompt="new", rejected=" \n"), "empty_response"),
        (pair(prompt="new", chosen="bad"), "identical_responses"),
        (pair(prompt="new", score_chosen=5, score_rejected=5), "equal_ratings"),
        (pair(prompt="new", score_chosen=float("nan"), score_rejected=5), "unrated_response"),
        ({"prompt": "new", "responses": ["a", "b"], "ratings": [float("nan"), 1]}, "non_finite_rating"),
        ({"instruction": "new", "input": ["x"], "chosen": "a", "rejected": "b"}, "bad_type"),
        (pair(prompt="new", score_chosen="many", score_rejected=5), "bad_rating"),
        (pair(), "duplicate_row"),
        (pair(prompt="held out"), "held_out_prompt_in_train"),
        (pair(chosen=chat("a"), rejected=[{"role": "user", "content": "Yo"}, *chat("b")]), "different_prompts"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_place_and_reason(tmp_path, row, reason):
    groups, quarantined = read(tmp_path, [pair(), row])
    assert len(groups[groups.split == "train"]) == 1
    assert list(zip(quarantined.source, quarantined.reason, strict=True)) == [("train.jsonl:2", reason)]


def test_one_response_is_too_few(tmp_path):
    rows = [
        {"prompt": "a", "responses": ["x", "y"], "ratings": [1, 2]},
        {"prompt": "b", "responses": ["x"], "ratings": [1]},
    ]
    _, quarantined = read(tmp_path, rows)
    assert list(quarantined.reason) == ["too_few_responses"]


def test_a_group_loses_only_its_unusable_responses_and_they_are_counted(tmp_path):
    rows = [{"prompt": "a", "responses": ["x", "", "y", "x", "z"], "ratings": [1, 2, 3, 1, None]}]
    groups, quarantined = read(tmp_path, rows)
    assert groups[groups.split == "train"].responses.item() == ["x", "y"]
    assert dict(zip(quarantined.reason, quarantined.detail, strict=True)) == {
        reason: "1 of 5 responses dropped, the group is kept"
        for reason in ("empty_response", "identical_responses", "unrated_response")
    }


def test_one_response_with_two_ratings_is_dropped_with_both_copies(tmp_path):
    groups, quarantined = read(tmp_path, [{"prompt": "a", "responses": ["x", "y", "x", "z"], "ratings": [1, 2, 3, 1]}])
    assert groups[groups.split == "train"].responses.item() == ["y", "z"]
    assert list(quarantined.reason) == ["contradictory_ratings"]
    assert "2 of 4 responses dropped" in quarantined.detail[0] and "rated 1.0 and 3.0" in quarantined.detail[0]


def test_nan_of_pandas_is_null(tmp_path):
    names = ("input", "system", "history", "tools", "finish_reason", "chosen_rating", "rejected_rating")
    row = {"instruction": "q", "chosen": "a", "rejected": "b", **dict.fromkeys(names, float("nan"))}
    groups, quarantined = read(tmp_path, [row])
    group = groups.iloc[0]
    assert quarantined.empty and group["messages"] == [{"role": "user", "content": "q"}]
    assert group["ratings"] == [1, 0]


def test_a_file_of_a_directory_is_read_once(tmp_path):
    for name in ("a.jsonl", "b.json.gz"):
        text = json.dumps(pair()) if "jsonl" in name else json.dumps([pair()])
        (tmp_path / name).write_bytes(text.encode() if "jsonl" in name else gzip.compress(text.encode()))
    assert [row.source for row in read_rows(PreferenceSource(path=str(tmp_path)))] == ["a.jsonl:1", "b.json.gz:1"]


def test_two_splits_can_be_cut_out_of_one_file(tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", [pair(f"p{i}") for i in range(6)])
    parts = {"train": {"max_rows": 3}, "test": {"skip_rows": 3, "max_rows": 2}}
    files = {split: rows.model_copy(update=part) for split, part in parts.items()}
    groups, quarantined = read_preferences(PreferenceFiles(**files))
    assert list(groups.source) == [f"rows.jsonl:{i}" for i in range(1, 6)] and quarantined.empty
    assert list(groups.split) == ["train"] * 3 + ["test"] * 2


def test_no_group_left_is_an_error_that_counts_the_reasons(tmp_path):
    rows = [pair(rejected=""), pair("a", rejected="\n"), pair("b", chosen=3), "{"]
    rows += [pair("c", score_chosen=5, score_rejected=5)] * 3
    with pytest.raises(NoGroupsLeftError) as caught:
        read(tmp_path, rows)
    assert str(caught.value) == (
        "no prompt group is left for train; quarantined rows: equal_ratings 3 times, for example train.jsonl:5: "
        "all 2 responses are rated 5.0; empty_response 2 times, for example train.jsonl:1: 1 of 2 responses are "
        "usable, 2 are needed; bad_type 1 times, for example train.jsonl:3: 1 of 2 responses are usable, 2 are needed: "
        "chosen is neither a text nor a list of messages with role and content; and 1 other reasons"
    )
    assert list(frame(caught.value.quarantined)["source"]) == [f"train.jsonl:{i}" for i in range(1, 8)]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet", "csv"])
def test_every_file_format_yields_the_same_rows(tmp_path, ending):
    rows = [pair(), pair(prompt="Two,\nlines?")]
    path = tmp_path / f"rows.{ending}"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    match ending:
        case "jsonl":
            path.write_text(text)
        case "jsonl.gz":
            path.write_bytes(gzip.compress(text.encode()))
        case "json":
            path.write_text(json.dumps(rows))
        case "parquet":
            pd.DataFrame(rows).to_parquet(path)
        case "csv":
            pd.DataFrame(rows).to_csv(path, index=False)
    found = list(read_rows(PreferenceSource(path=str(path))))
    assert [row.content for row in found] == rows
    assert [row.source for row in found] == [f"{path.name}:1", f"{path.name}:2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "there is no such file"),
        ("rows.xml", b"<a/>", r"only \.jsonl, .*\.csv, \.tsv can be read"),
        ("rows.parquet", b"no parquet", "does not have the format of its extension"),
        ("rows.jsonl.gz", b"not gzipped", "does not have the format of its extension"),
        ("rows.json", b'{"a": 1}', "holds one list of objects"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        list(read_rows(PreferenceSource(path=str(path))))


def test_a_dataset_that_the_hub_does_not_give_is_named(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'no-one/nothing' \(split 'train'\) cannot be loaded from the hub"):
        list(read_rows(PreferenceSource(hub_id="no-one/nothing")))


@pytest.mark.parametrize(
    ("train", "held_out", "rating_key", "n_rows"),
    [
        ("ultrafeedback/train.jsonl.gz", "ultrafeedback/eval.jsonl.gz", None, 202),
        ("hh_rlhf/harmless-base-test.jsonl.gz", "ultrafeedback/eval.jsonl.gz", None, 200),
        ("rated_responses/tulu2_dpo_13b_bon16.jsonl.gz", "ultrafeedback/eval.jsonl.gz", "gpt4turbo_preference", 80),
    ],
)
def test_on_real_data_every_row_ends_as_a_group_or_in_quarantine(train, held_out, rating_key, n_rows):
    files = PreferenceFiles(
        train=PreferenceSource(path=str(ASSETS / train), rating_key=rating_key),
        test=PreferenceSource(path=str(ASSETS / held_out)),
    )
    groups, quarantined = read_preferences(files)
    PreferenceGroupTable.validate(groups)
    assert len(set(groups.source) | set(quarantined.source)) == n_rows
    assert len(groups) > 0.8 * n_rows
