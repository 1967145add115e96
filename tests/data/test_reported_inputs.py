"""Inputs that users reported: what each file of tests/assets/reported_inputs becomes, read and tokenised.

Their kinds are proved by small rows in test_messages.py, test_ratings.py, test_formats.py and test_readers.py, also
where the folder is absent.
"""

from collections import Counter

import pytest
from assets import ASSETS
from data_tables import frame, read_preferences, tokenize_groups

from rao_kedro.config.data_engineering import PreferenceFiles, PreferenceSource
from rao_kedro.data.quarantine import NoGroupsLeftError
from rao_kedro.data.tables import PreferenceGroupTable, QuarantineTable
from rao_kedro.data.tokenize import TokenLimits
from rao_kedro.models.chat_format import load_chat_format

INPUTS = ASSETS / "reported_inputs"
LIMITS = TokenLimits(max_prompt_tokens=400, max_response_tokens=200)
GOOD, BAD = "Gear 0 drives it.", "Gear 1, probably."
QUESTION = "Which gear number 0 drives the pump?"
USER = [{"role": "user", "content": QUESTION}]


def read(name, **options):
    train = PreferenceSource(path=str(INPUTS / name), **options)
    files = PreferenceFiles(train=train, test=PreferenceSource(path=str(INPUTS / "ok_test.jsonl")))
    groups, quarantined = read_preferences(files)
    QuarantineTable.validate(quarantined)
    return PreferenceGroupTable.validate(groups), quarantined


# Groups of the training split, messages and responses and ratings of the first, and how often what was quarantined.
READ = {
    "01c_prompt_and_multi_turn_completions.jsonl": (
        8,
        [*USER, {"role": "assistant", "content": "Which pump?"}, {"role": "user", "content": "The blue one."}],
        {GOOD: 1, BAD: 0},
        {},
    ),
    "03_content_parts.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "04_metadata_as_text.jsonl": (8, USER, {GOOD: 4.5, BAD: 2}, {}),
    "05_bom.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "06_lone_surrogate.jsonl": (7, USER, {GOOD: 1, BAD: 0}, {"invalid_text": 1}),
    "07_long_field.csv.gz": (9, USER, {GOOD: 1, BAD: 0}, {}),
    "07b_chats_in_csv.csv": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "08_chosen_rating.jsonl": (4, USER, {GOOD: 4.5, BAD: 1}, {"equal_ratings": 4}),
    "09_all_rm_scores.jsonl": (8, USER, {GOOD: 0.2, BAD: 0.1, f"{GOOD} Yes.": 0.17, f"{BAD} No.": 0.05}, {}),
    "10_prompt_with_human_markers.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "11_ranked_answers.jsonl": (8, USER, {GOOD: -1, BAD: -2}, {}),
    "12_one_response_per_row.jsonl": (8, USER, {GOOD: 4, BAD: 1}, {}),
    "12c_safe_rlhf.jsonl": (8, USER, {BAD: 0, GOOD: 1}, {}),
    "13_unpaired.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "14_alpaca_preference.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "14b_sharegpt_preference.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "15_system_column.jsonl": (
        8,
        [{"role": "system", "content": "You are a mechanic."}, *USER],
        {GOOD: 1, BAD: 0},
        {},
    ),
    "16_lines_named_json.json": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "25b_response_none_in_list.jsonl": (8, USER, {GOOD: 5, BAD: 1}, {"empty_response": 8}),
    "30_one_row_with_system.jsonl": (8, USER, {GOOD: 1, BAD: 0}, {}),
    "54_rating_scores_in_lists.jsonl": (8, USER, {GOOD: 0.2, BAD: 0.1}, {}),
    "56_distilabel.jsonl": (8, USER, {GOOD: 5, BAD: 2}, {}),
}


@pytest.mark.parametrize("name", READ)
def test_a_reported_file_is_read_and_tokenised(name, tiny_checkpoint):
    n, messages, rated, reasons = READ[name]
    groups, quarantined = read(name)
    train = groups[groups["split"] == "train"]
    first = train.iloc[0]
    assert (len(train), first["messages"]) == (n, messages)
    assert dict(zip(first["responses"], first["ratings"], strict=True)) == rated
    assert dict(Counter(quarantined["reason"])) == reasons
    chat = load_chat_format(tiny_checkpoint)
    limits = LIMITS if "07_" not in name else TokenLimits(400, 500_000)
    tokenized, dropped = tokenize_groups(groups, chat, limits, "best_vs_random", seed=0)
    row = tokenized.iloc[0]
    assert dropped.empty and len(tokenized) == len(groups)
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    assert chat.tokenizer.decode(row["prompt_ids"]) == turns + "<|im_start|>assistant\n"
    assert [chat.tokenizer.decode(ids) for ids in row["response_ids"]] == [f"{text}<|im_end|>" for text in rated]


@pytest.mark.parametrize(
    ("name", "n", "reason", "detail"),
    [
        ("01_prompt_and_multi_message_completions.jsonl", 8, "tool_call", "chosen has a message of role tool"),
        ("02_null_content_tool_calls.jsonl", 8, "tool_call", "chosen has tool_calls"),
        ("52_mixed_message_keys.parquet", 8, "tool_call", "rejected has tool_calls"),
        ("19_answer_role_is_user.jsonl", 8, "bad_dialogue", "last message of chosen is of role user"),
        ("24_invisible_response.jsonl", 8, "empty_response", "1 of 2 responses are usable"),
    ],
)
def test_a_reported_file_that_holds_nothing_to_train_on_says_why_for_every_row(name, n, reason, detail):
    with pytest.raises(NoGroupsLeftError, match=f"{reason} {n} times, for example {name}:1: .*{detail}") as caught:
        read(name)
    quarantined = QuarantineTable.validate(frame(caught.value.quarantined))
    assert list(quarantined["reason"]) == [reason] * n
    assert list(quarantined["source"]) == [f"{name}:{i + 1}" for i in range(n)]


def test_every_reported_file_has_a_test():
    here = {path.name for path in INPUTS.glob("[0-9]*")}
    elsewhere = {"17_special_tokens_in_text.jsonl", "18_differs_in_whitespace_only.jsonl"}  # test_tokenize.py
    nothing = {name for name in here if name.startswith(("01_", "02_", "52_", "19_", "24_"))}
    assert here == set(READ) | elsewhere | nothing


def test_the_rating_of_the_reported_helpsteer_and_safe_rlhf_rows_is_a_parameter():
    groups, quarantined = read("12_one_response_per_row.jsonl", rating_key="coherence")
    assert groups.iloc[0]["ratings"] == [4.0, 3.0] and quarantined.empty
    groups, _ = read("12c_safe_rlhf.jsonl", rating_key="safer_response_id")
    assert groups.iloc[0]["rated_by"] == "safer_response_id"
