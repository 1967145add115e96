"""Rows of published data become conversations; what cannot be used is quarantined with a reason."""

import json
from pathlib import Path

import pytest
from assets import ASSETS

from rao_kedro.config.data_engineering import ConversationFiles, ConversationSource
from rao_kedro.data.conversations import check_conversation, read_conversations
from rao_kedro.data.quarantine import NoGroupsLeftError, UnusableRow
from rao_kedro.data.table_files import read_rows

SHIPPED = Path(__file__).parents[2] / "data/01_raw/conversations.jsonl.gz"


def chat(*texts, roles=("user", "assistant"), keys=("role", "content")):
    return [dict(zip(keys, (roles[i % 2], text), strict=True)) for i, text in enumerate(texts)]


def read(tmp_path, rows, validation=None, **options):
    """Return the conversations and the quarantined rows of a file."""
    sources = {}
    for name, of in (("train", rows), ("validation", validation)):
        if of is not None:
            path = tmp_path / f"{name}.jsonl"
            path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in of))
            sources[name] = ConversationSource(path=str(path), **options)
    files = ConversationFiles(**{"validation_share": 0} | sources)
    kept, dropped = read_conversations(files, tmp_path)
    return [*read_rows(kept)], [*read_rows(dropped)]


FOUR = ("the fox", "jumps", "over?", "the dog")
TREE = {
    "role": "prompter",
    "text": "the fox",
    "replies": [
        {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
        {
            "role": "assistant",
            "text": "jumps",
            "rank": 0,
            "replies": [
                {"role": "prompter", "text": "spam", "rank": 0, "deleted": True, "replies": []},
                {
                    "role": "prompter",
                    "text": "over?",
                    "rank": 1,
                    "replies": [{"role": "assistant", "text": "the dog", "replies": []}],
                },
            ],
        },
    ],
}
FORMATS = {
    "UltraChat": [{"prompt": "the fox", "prompt_id": "1", "messages": chat(*FOUR)}],
    "ShareGPT": [{"id": "1", "conversations": chat(*FOUR, roles=("human", "gpt"), keys=("from", "value"))}],
    "odd names of roles": [{"conversations": chat(*FOUR, roles=("User", "chatgpt"), keys=("from", "value"))}],
    "alpaca": [{"instruction": "over?", "input": "", "output": "the dog", "history": [["the fox", "jumps"]]}],
    "a tree": [{"message_tree_id": "1", "prompt": TREE}],
    "hh-rlhf": [
        {
            "chosen": "\n\nHuman: the fox\n\nAssistant: jumps\n\nHuman: over?\n\nAssistant: the dog",
            "rejected": "\n\nHuman: the fox\n\nAssistant: jumps\n\nHuman: over?\n\nAssistant: no",
        }
    ],
    "chats of preferences": [{"prompt": "the fox", "chosen": chat(*FOUR), "rejected": chat(*FOUR[:2])}],
    "prompt and completion": [{"prompt": chat(*FOUR[:3]), "completion": "the dog"}],
    "question and answer": [{"question": chat(*FOUR[:3]), "answer": chat("the dog", roles=("assistant",))}],
}


@pytest.mark.parametrize("rows", FORMATS.values(), ids=FORMATS)
def test_formats_are_recognised(tmp_path, rows):
    (found,), dropped = read(tmp_path, rows)
    assert found["messages"] == chat(*FOUR)
    assert not dropped


def test_a_tree_counts_the_replies_that_are_not_on_its_best_path(tmp_path):
    (found,), _ = read(tmp_path, FORMATS["a tree"])
    assert found["other_replies"] == 2


def test_messages_that_are_rows_form_trees(tmp_path):
    """The layout of OpenAssistant's rows: replies may stand anywhere, and a message without its parent is said."""
    rows = [
        {"message_id": "b1", "parent_id": "a1", "role": "assistant", "text": "jumps", "rank": 0},
        {"message_id": "a1", "parent_id": None, "role": "prompter", "text": "the fox"},
        {"message_id": "b2", "parent_id": "a1", "role": "assistant", "text": "sleeps", "rank": 1},
        {"message_id": "c", "parent_id": "lost", "role": "assistant", "text": "yes"},
        {"message_id": "a2", "parent_id": None, "role": "prompter", "text": "unanswered"},
    ]
    (found,), dropped = read(tmp_path, rows)
    assert found["messages"] == chat("the fox", "jumps")
    assert (found["source"], found["other_replies"]) == ("train.jsonl:2", 1)
    assert {row["source"]: row["reason"] for row in dropped} == {
        "train.jsonl:4": "orphan_message",
        "train.jsonl:5": "no_assistant_turn",
    }


def test_a_system_message_comes_from_the_chat_or_from_its_column(tmp_path):
    system = {"role": "system", "content": "be kind"}
    rows = [{"messages": [system, *chat("a", "b")]}, {"system": "be kind", "conversations": chat("c", "d")}]
    found, _ = read(tmp_path, rows)
    assert [one["messages"][0] for one in found] == [system, system]


def test_columns_are_renamed_and_rows_counted_out(tmp_path):
    rows = [{"dialogue": chat(str(i), "yes")} for i in range(5)]
    found, _ = read(tmp_path, rows, columns={"messages": "dialogue"}, skip_rows=1, max_rows=2)
    assert [one["messages"][0]["content"] for one in found] == ["1", "2"]


def test_the_users_turn_at_the_end_is_dropped_and_counted(tmp_path):
    found, dropped = read(tmp_path, [{"messages": chat(*FOUR[:3])}, {"messages": chat("a", "b")}])
    assert [(one["messages"], one["dropped_user_turn"]) for one in found] == [
        (chat(*FOUR[:2]), True),
        (chat("a", "b"), False),
    ]
    assert not dropped


BAD = {
    "no_assistant_turn": {"messages": chat("hello?")},
    "empty_conversation": {"messages": []},
    "repeated_role": {"messages": [*chat("a", "b"), {"role": "assistant", "content": "c"}]},
    "empty_turn": {"messages": chat("a", " \n", "c", "d")},
    "bad_dialogue": {"messages": chat("I begin", "no, I", roles=("assistant", "user"))[:1]},
    "not_text": {"messages": chat("a", "b"), "images": ["cat.png"]},
    "undesirable": {"prompt": "a", "completion": "b", "label": False},
    "tool_call": {"messages": [*chat("a", "b"), {"role": "tool", "content": "42"}]},
    "unknown_format": {"first": "a", "second": "b"},
    "missing_column": {"instruction": None, "question": None, "prompt": None, "output": "b"},
    "invalid_json": "{not json",
    "bad_type": {"messages": 7},
    "unreadable": {"prompt": {"role": "prompter", "text": "a", "replies": [3]}},
    "invalid_text": {"messages": chat("a\ud800", "b")},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_row_that_cannot_be_used_is_quarantined_and_the_others_stay(tmp_path, reason):
    (found,), (dropped,) = read(tmp_path, [BAD[reason], {"messages": chat("the fox", "jumps")}])
    assert found["source"] == "train.jsonl:2"
    assert (dropped["reason"], dropped["source"]) == (reason, "train.jsonl:1")
    assert dropped["detail"]


def test_an_equal_conversation_and_a_prompt_of_the_validation_split_are_quarantined(tmp_path):
    rows = [{"messages": chat("a", "b")}, {"messages": chat("a", "b")}, {"messages": chat("held out", "x")}]
    found, dropped = read(tmp_path, rows, validation=[{"messages": chat("held out", "y", "and?", "z")}])
    assert [one["split"] for one in found] == ["validation", "train"]
    assert [row["reason"] for row in dropped] == ["duplicate_row", "held_out_prompt_in_train"]


def test_without_a_source_for_it_a_share_validates_and_shares_no_prompt(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join(json.dumps({"messages": chat(f"{i // 2}", f"{i}")}) for i in range(400)))
    files = ConversationFiles(train=ConversationSource(path=str(path)), validation_share=0.25)
    kept, _ = read_conversations(files, tmp_path)
    splits = {}
    for row in read_rows(kept):
        splits.setdefault(row["split"], set()).add(row["messages"][0]["content"])
    assert 30 < len(splits["validation"]) < 70
    assert not splits["train"] & splits["validation"]


def test_data_without_a_training_conversation_say_why(tmp_path):
    rows = [{"messages": chat("a")}, {"messages": chat("b")}, {"messages": []}]
    with pytest.raises(NoGroupsLeftError, match=r"no training conversation is left.*no_assistant_turn 2 times"):
        read(tmp_path, rows)


def test_an_empty_system_message_is_left_out():
    assert check_conversation([{"role": "system", "content": ""}, *chat("a", "b")]) == chat("a", "b")
    with pytest.raises(UnusableRow, match="no turn of the user"):
        check_conversation([{"role": "system", "content": "be kind"}])


def read_all(tmp_path, path):
    files = ConversationFiles(train=ConversationSource(path=str(path)), validation_share=0)
    kept, dropped = read_conversations(files, tmp_path)
    return [*read_rows(kept)], [*read_rows(dropped)]


def test_real_conversations_are_read_without_loss(tmp_path):
    kept, unreadable = read_all(tmp_path, SHIPPED)
    assert (len(kept), len(unreadable), sum(len(one["messages"]) > 2 for one in kept)) == (330, 0, 127)
    kept, unreadable = read_all(tmp_path, ASSETS / "hh_rlhf/harmless-base-test.jsonl.gz")
    assert len(kept) + len(unreadable) == 150
    assert [row["reason"] for row in unreadable] == ["no_assistant_turn"]
    # 69 transcripts have several turns of the assistant; the second one of one of them is empty.
    assert sum(len(one["messages"]) > 2 for one in kept) == 69 - 1 == 69 - sum(one["dropped_user_turn"] for one in kept)
