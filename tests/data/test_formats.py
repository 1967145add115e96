"""Formats: what a row of each becomes, how its columns show it, and what a bad row of it says."""

import json
from dataclasses import replace
from typing import get_args

import pytest

from rao_kedro.config.data_engineering import FormatName, PreferenceFiles, PreferenceSource
from rao_kedro.data import groups
from rao_kedro.data.columns import rename_columns
from rao_kedro.data.formats import FORMATS, read_trl, sniff
from rao_kedro.data.groups import GroupBuilder, read_preferences
from rao_kedro.data.quarantine import UnusableRow
from rao_kedro.data.tables import PreferenceGroupTable, QuarantineTable

USER = [{"role": "user", "content": "Hi?"}]
SYSTEM = [{"role": "system", "content": "Be brief."}]
EARLIER = [{"role": "user", "content": "Yo?"}, {"role": "assistant", "content": "Yo."}]


def assistant(text):
    return {"role": "assistant", "content": text}


def ranked(text, rank):
    return {"rank": rank, "completion": [assistant(text)]}


ROWS = {
    "simpo": (
        {
            "prompt": "Hi?",
            "all_generated_responses": ["a", "b", "c"],
            "all_rm_scores": [0.1, 0.3, 0.2],
            "chosen": [*USER, assistant("b")],
            "rejected": [*USER, assistant("a")],
        },
        {"a": 0.1, "b": 0.3, "c": 0.2},
    ),
    "distilabel": ({"instruction": "Hi?", "generations": ["a", "b"], "ratings": [5, 2]}, {"a": 5, "b": 2}),
    "nectar": (
        {
            "prompt": "\n\nHuman: Hi?\n\nAssistant: ",
            "answers": [{"answer": " a", "model": "x", "rank": 2.0}, {"answer": "b", "model": "y", "rank": 1.0}],
        },
        {"a": -2, "b": -1},
    ),
    "nemo_rl": ({"context": USER, "completions": [ranked("a", 0), ranked("b", 1)]}, {"a": 0, "b": -1}),
    "ultrafeedback": (
        {"instruction": "Hi?", "completions": [{"response": "a", "overall_score": 7}, {"response": "b"}, {}]},
        {"a": 7, "b": None, None: None},
    ),
    "rated": ({"messages": USER, "responses": ["a", "b"], "ratings": [5, 2]}, {"a": 5, "b": 2}),
    "helpsteer3": (
        {"context": USER, "response1": "a", "response2": "b", "overall_preference": -2},
        {"a": 1, "b": -1},
    ),
    "safe_rlhf": (
        {"prompt": "Hi?", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0},
        {"a": 0, "b": 1},
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "Hi?"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"a": 1, "b": 0},
    ),
    "alpaca": ({"instruction": "Hi?", "input": "", "chosen": "a", "rejected": "b"}, {"a": 1, "b": 0}),
    "trl": ({"prompt": "Hi?", "chosen": "a", "rejected": "b"}, {"a": 1, "b": 0}),
    "hh_rlhf": ({"chosen": "\n\nHuman: Hi?\n\nAssistant: a", "rejected": "\n\nHuman: Hi?\n\nAssistant: b"}, None),
    "unpaired": ({"prompt": USER, "completion": [assistant("a")], "label": True}, {"a": 1}),
    "helpsteer2": ({"prompt": "Hi?", "response": "a", "helpfulness": 3, "coherence": 4}, {"a": 3}),
}


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


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "Hi", "input": "you?"}, [{"role": "user", "content": "Hi\nyou?"}]),
        ({"instruction": "Hi?", "system": "Be brief.", "history": [["Yo?", "Yo."]]}, [*SYSTEM, *EARLIER, *USER]),
        ({"prompt": USER, "system_prompt": "Be brief."}, [*SYSTEM, *USER]),
        ({"conversations": [*EARLIER, *USER], "system": "Be brief."}, [*SYSTEM, *EARLIER, *USER]),
        ({"prompt": "\n\nHuman: Yo?\n\nAssistant: Yo.\n\nHuman: Hi?\n\nAssistant:"}, [*EARLIER, *USER]),
    ],
)
def test_system_history_and_input_belong_to_the_prompt(row, messages):
    row |= {"chosen": "a", "rejected": "b"}
    assert FORMATS[sniff(row)].read(row).messages == messages


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Hi", "input": "you?"}, [{"role": "user", "content": "Hi\nyou?"}]),
        ({"question": "Hi", "context": "you?"}, [{"role": "user", "content": "Hi\nyou?"}]),
        ({"prompt": "Hi?", "messages": [*EARLIER, *USER]}, [*EARLIER, *USER]),
        ({"prompt": "Hi?", "question": "Hi?", "messages": [*USER, assistant("a")]}, USER),
    ],
)
def test_no_column_of_the_prompt_is_lost(row, messages):
    assert read_trl(row | {"chosen": "a", "rejected": "b"}).messages == messages


@pytest.mark.parametrize("name", ["question", "query", "instruction", "messages", "conversations"])
def test_a_second_prompt_is_said_and_can_be_left_out(name):
    row = {"prompt": "Hi?", "chosen": "a", "rejected": "b", name: EARLIER[:1] if name[-1] == "s" else "Yo?"}
    with pytest.raises(UnusableRow, match=f"bad_dialogue: column {name} holds text .*{name}: null"):
        read_trl(row)
    assert read_trl(rename_columns(row, PreferenceSource(path="x", columns={name: None}).columns)).messages == USER


def test_a_completion_of_several_messages_is_not_several_responses():
    row = {"prompt": "Hi?", "chosen": [assistant("a"), assistant("b")], "rejected": "c"}
    problem, good = read_trl(row).responses
    assert problem.reason == "bad_dialogue" and "two messages of the assistant" in problem.detail and good == "c"
    assert read_trl(row | {"chosen_rating": [3, 2], "rejected_rating": 1}).responses == ["a", "b", "c"]


def test_an_explicit_prompt_stays_before_the_turns_that_completions_share():
    turns = [assistant("Which?"), {"role": "user", "content": "That."}]
    row = {"prompt": USER, "chosen": [*turns, assistant("a")], "rejected": [*turns, assistant("b")]}
    group = FORMATS["trl"].read(row)
    assert (group.messages, group.responses) == ([*USER, *turns], ["a", "b"])


@pytest.mark.parametrize("name", ["images", "image", "audio", "videos", "tools"])
def test_a_prompt_with_more_than_text_is_not_read_without_it(name):
    row = {"prompt": "Hi?", "chosen": "a", "rejected": "b", name: ["x"]}
    with pytest.raises(UnusableRow, match=f"not_text: column {name} is part of the prompt"):
        FORMATS["trl"].read(row)
    columns = PreferenceSource(path="x", columns={name: None}).columns
    assert FORMATS["trl"].read(rename_columns(row, columns)).responses == ["a", "b"]
    for empty in ([], {}, "", None):
        assert FORMATS["trl"].read(row | {name: empty}).responses == ["a", "b"]


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


@pytest.mark.parametrize(("value", "message"), [([True], "1 values for 2 responses"), (["a", "b"], "'a' is none of")])
def test_what_a_column_of_finished_responses_cannot_say(value, message):
    row = {"prompt": "Hi?", "responses": ["a", "b"], "ratings": [1, 2], "finished": value}
    with pytest.raises(UnusableRow, match=message):
        FORMATS["rated"].read(row)


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


def test_columns_are_renamed_nested_or_left_out():
    row = {"question": "Hi?", "outputs": {"good": "a", "bad": "b"}, "system": "me", "prompt": 7}
    columns = {"prompt": "question", "chosen": "outputs.good", "rejected": "outputs.bad", "system": None}
    renamed = rename_columns(row, columns)
    assert renamed["prompt"] == "Hi?" and "system" not in renamed and "question" not in renamed
    assert FORMATS[sniff(renamed)].read(renamed).responses == ["a", "b"]
    with pytest.raises(UnusableRow, match="no column answer, which `columns` names as chosen; the row has question"):
        rename_columns(row, {"chosen": "answer"})


@pytest.mark.parametrize(
    ("row", "known", "right"),
    [
        ({"prompt": "Hi?", "responses": ["a", "b"], "human_rank": [1, 2], "scores": [1, 2]}, "ratings", "ranks"),
        ({"prompt": "Hi?", "response": "a", "human_rank": 1, "score": 3}, "rating", "rank"),
    ],
)
def test_ranks_that_are_named_as_ratings_are_refused_and_read_under_their_own_name(row, known, right):
    with pytest.raises(UnusableRow, match=f"bad_rating: .*highest is best: write `{right}: human_rank`"):
        rename_columns(row, {known: "human_rank"})
    renamed = rename_columns(row, PreferenceSource(path="x", columns={right: "human_rank"}).columns)
    assert FORMATS[sniff(renamed)].read(renamed).ratings[0] == -1


def test_an_unknown_target_of_a_column_is_refused():
    with pytest.raises(ValueError, match=r"columns\.choosen"):
        PreferenceSource(path="x", columns={"choosen": "a"})


def built(tmp_path, rows, **source):
    for name, lines in (("train", rows), ("test", [{"prompt": "held out", "chosen": "a", "rejected": "b"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    train = PreferenceSource(path=str(tmp_path / "train.jsonl"), **source)
    files = PreferenceFiles(train=train, test=PreferenceSource(path=str(tmp_path / "test.jsonl")))
    table, quarantined = read_preferences(files)
    QuarantineTable.validate(quarantined)
    train_groups = PreferenceGroupTable.validate(table).query("split == 'train'")
    return train_groups, list(zip(quarantined["source"], quarantined["reason"], strict=True))


def test_a_file_may_mix_formats_and_nulls(tmp_path):
    nulls = dict.fromkeys(("prompt", "chosen", "rejected", "instruction", "completions", "responses", "ratings"))
    rows = [nulls | ROWS[name][0] for name in ("trl", "distilabel", "nemo_rl")]
    rows = [{**row, "system": f"Number {i}."} for i, row in enumerate(rows)]
    found, quarantined = built(tmp_path, [*rows, {"prompt": "Hi?", "chosen": "a"}, {"what": 1}])
    assert list(found["source"]) == [f"train.jsonl:{i}" for i in (1, 2, 3)]
    # A row that fits no format is read as the one before it, so that what it lacks can be named.
    assert quarantined == [("train.jsonl:4", "missing_column"), ("train.jsonl:5", "missing_column")]


def test_a_mapping_reads_any_columns_and_counts_rows_without_them(tmp_path):
    rows = [{"question": "Hi?", "answer_a": "a", "answer_b": "b", "cut": [True, False]}, {"question": "Yo?"}]
    columns = {"prompt": "question", "chosen": "answer_a", "rejected": "answer_b", "truncated": "cut"}
    found, quarantined = built(tmp_path, rows, columns=columns)
    assert found["messages"].item() == USER and found["finished"].item() == [False, True]
    assert quarantined == [("train.jsonl:2", "missing_column")]


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
    found, quarantined = built(tmp_path, [*rows, row("p", "d", 1)])
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
    builder, seen, read = GroupBuilder(), [], groups.read_rows
    rows = [{"prompt": p, "response": r, "helpfulness": i} for i, (p, r) in enumerate(("pa", "pb", "qa", "qb"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def watched(source):
        for row in read(source):
            yield row
            seen.append(len(builder.groups))

    monkeypatch.setattr(groups, "read_rows", watched)
    builder.read("train", PreferenceSource(path=str(tmp_path / "rows.jsonl")))
    assert seen == [0, 0, 1, 1] and len(builder.groups) == 2


def test_labelled_rows_of_a_prompt_are_one_group_wherever_they_stand(tmp_path):
    def row(prompt, completion, label):
        return {"prompt": prompt, "completion": completion, "label": label}

    rows = [row("p", "a", True), row("q", "a", True), row("r", "a", False), row("p", "b", False), row("q", "b", 1)]
    found, quarantined = built(tmp_path, rows)
    assert found["source"].item() == "train.jsonl:1 + train.jsonl:4"
    assert found["ratings"].item() == [1, 0] and found["rated_by"].item() == "label"
    assert quarantined == [
        ("train.jsonl:2 + train.jsonl:5", "unpaired_response"),
        ("train.jsonl:3", "unpaired_response"),
    ]


def test_rows_of_one_prompt_rated_by_different_fields_or_scales_are_no_group(tmp_path):
    rows = [{"prompt": "p", "response": r, "rating": v} for r, v in (("a", "4/5"), ("b", "7/10"))]
    good = [{"prompt": "q", "response": r, "rating": v} for r, v in (("a", "4/5"), ("b", "3/5"))]
    found, quarantined = built(tmp_path, [*rows, *good])
    assert found["rated_by"].item() == "rating (of 5)"
    assert quarantined == [("train.jsonl:1 + train.jsonl:2", "bad_rating")]


def test_a_group_loses_only_responses_that_cannot_be_read(tmp_path):
    call = {**assistant("x"), "tool_calls": [{"function": {"name": "f"}}]}
    responses = ["a", None, "b", [call], "\u200b", "c\ud83d", {"role": "user", "content": "d"}, "e"]
    rows = [{"prompt": "Hi?", "responses": responses, "ratings": [1, 2, 3, 4, 5, 6, 7, True]}]
    found, quarantined = built(tmp_path, rows)
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
    found, quarantined = built(tmp_path, [ROWS["trl"][0], row])
    assert found["source"].item() == "train.jsonl:1" and [source for source, _ in quarantined] == ["train.jsonl:2"]


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError("x"), RecursionError("x"), KeyError("x")])
def test_an_exception_of_a_row_is_quarantined_with_its_type(tmp_path, monkeypatch, error):
    def failing(row, rating_key=None):
        if row["prompt"] == "bad":
            raise error
        return FORMATS["alpaca"].read(row | {"instruction": row["prompt"]})

    monkeypatch.setitem(FORMATS, "trl", replace(FORMATS["trl"], read=failing))
    found, quarantined = built(tmp_path, [ROWS["trl"][0], ROWS["trl"][0] | {"prompt": "bad"}])
    assert len(found) == 1 and quarantined == [("train.jsonl:2", "unreadable")]
