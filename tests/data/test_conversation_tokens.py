"""Tables of conversations become tokens: cut after a turn, without held-out prompts, with a report."""

import pickle  # as processes send it to each other

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chats import STYLES, chat_of

from rao_kedro.data.arrow_schemas import CONVERSATIONS
from rao_kedro.data.conversation_tokens import (
    HeldOutPrompts,
    TurnTokenizer,
    read_held_out,
    tokenize_conversations,
)
from rao_kedro.data.quarantine import QuarantineFile
from rao_kedro.data.table_files import TableWriter, read_rows
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.conversation_tokens import ConversationTokenizer


def chat(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def chatml(tiny_checkpoint):
    return load_chat_format(tiny_checkpoint)


def tokenize(tmp_path, chat_format, conversations, max_tokens=1000, held_out=None):
    """Return the tokenised rows, the quarantined ones, and the report; the last conversation validates."""
    with TableWriter(tmp_path / "conversations.parquet", CONVERSATIONS) as writer:
        for i, messages in enumerate(conversations):
            split = "validation" if i and i == len(conversations) - 1 else "train"
            row = {"conversation_id": f"c{i}", "split": split, "messages": messages, "source": f"row {i}"}
            writer.write(row | {"dropped_user_turn": i == 0, "other_replies": 3 * (i == 0)})
    held_out = held_out or {"train": HeldOutPrompts(), "validation": HeldOutPrompts()}
    with QuarantineFile(tmp_path / "dropped.parquet") as dropped:
        path, output = tmp_path / "conversations.parquet", tmp_path / "tokenized.parquet"
        tokenizer = pickle.loads(pickle.dumps(TurnTokenizer(chat_format, max_tokens, held_out)))
        counts = tokenize_conversations(path, tokenizer, output, dropped)
    rows = [*read_rows(tmp_path / "dropped.parquet")]
    report = {(row.section, row.metric): row.value for row in counts.report(dropped.reasons.counts).itertuples()}
    return [*read_rows(output)], rows, report


FOUR = chat("the fox", "jumps over", "the dog", "and sleeps")


def test_a_long_conversation_is_cut_after_the_last_turn_that_fits(tmp_path, chatml):
    whole = ConversationTokenizer(chatml).tokenize(FOUR)
    first = ConversationTokenizer(chatml).tokenize(FOUR[:2])
    for room, expected, cut in ((len(whole.ids), whole, 0), (len(whole.ids) - 1, first, 1), (len(first.ids), first, 1)):
        (row, _), dropped, report = tokenize(tmp_path, chatml, [FOUR, chat("a", "b")], room)
        assert (row["ids"], row["learned"], row["cut_turns"]) == (expected.ids, expected.learned, cut)
        assert row["turns"] == len(expected.ends)
        assert not dropped
        assert report["train conversations", "assistant turns that were cut off"] == str(cut)


def test_a_part_is_tokenised_as_a_conversation_of_its_own(tmp_path):
    """Qwen's template writes an empty thought before the last turn only: a part may be longer than it was."""
    (tmp_path / "qwen").mkdir()
    qwen = chat_of(tmp_path / "qwen", STYLES["Qwen3"])
    tokenizer = ConversationTokenizer(qwen)
    six = [*FOUR, *chat("why", "it is tired")]
    fits = tokenizer.tokenize(six).ends[1]  # two turns, but not with a thought before the second
    (row,), _, _ = tokenize(tmp_path, qwen, [six], fits)
    assert row["ids"] == tokenizer.tokenize(six[:2]).ids
    assert row["cut_turns"] == 2


def test_a_first_turn_that_does_not_fit_is_quarantined(tmp_path, chatml):
    long = chat("the fox " * 50, "jumps")
    (row,), (dropped,), _ = tokenize(tmp_path, chatml, [chat("a", "b"), long], max_tokens=60)
    assert (row["conversation_id"], dropped["reason"], dropped["source"]) == ("c0", "first_turn_too_long", "row 1")
    assert "60 fit (max_conversation_tokens)" in dropped["detail"]


def test_what_the_template_refuses_or_changes_is_quarantined(tmp_path):
    (tmp_path / "gemma").mkdir()
    gemma = chat_of(tmp_path / "gemma", STYLES["Gemma"])
    system = [{"role": "system", "content": "be kind"}, *FOUR]
    rows, dropped, _ = tokenize(tmp_path, gemma, [FOUR, system])
    assert (len(rows), [row["reason"] for row in dropped]) == (1, ["template_error"])
    (tmp_path / "qwen").mkdir()
    qwen = chat_of(tmp_path / "qwen", STYLES["Qwen3"])
    thoughtful = chat("the fox", "<think>hm</think>jumps", "over?", "yes")
    rows, dropped, _ = tokenize(tmp_path, qwen, [FOUR, thoughtful])
    assert (len(rows), [row["reason"] for row in dropped]) == (1, ["template_changes_turn"])


def test_prompts_of_evaluation_and_test_are_in_no_conversation(tmp_path, chatml):
    groups = [
        {"split": "train", "messages": chat("trained")},
        {"split": "validation", "messages": chat("chooses")},
        {"split": "test", "messages": chat("first", "b", "second")},
    ]
    pq.write_table(pa.Table.from_pylist(groups), tmp_path / "groups.parquet")
    pq.write_table(pa.Table.from_pylist([{"messages": chat("evaluated")}]), tmp_path / "prompts.parquet")
    held_out = read_held_out(tmp_path / "groups.parquet", tmp_path / "prompts.parquet")
    conversations = [
        chat("trained", "b"),
        chat("chooses", "b"),
        chat("hello", "b", " evaluated\n", "d"),
        [{"role": "system", "content": "be kind"}, *chat("first", "b", "second", "d")],
        chat("second", "d"),
        chat("chooses", "b", "more", "c"),
    ]
    rows, dropped, _ = tokenize(tmp_path, chatml, conversations, held_out=held_out)
    assert [row["conversation_id"] for row in rows] == ["c0", "c4", "c5"]
    assert {row["source"] for row in dropped} == {"row 1", "row 2", "row 3"}
    assert {row["reason"] for row in dropped} == {"held_out_prompt_in_train"}
    rows, (dropped,), _ = tokenize(tmp_path, chatml, [chat("a", "b"), chat("evaluated", "b")], held_out=held_out)
    assert dropped["reason"] == "test_prompt_in_validation"


def test_the_report_counts_what_is_learned_and_what_was_left_out(tmp_path, chatml):
    rows, _, report = tokenize(tmp_path, chatml, [FOUR, chat("a", "b"), chat("c", "d")])
    train = [row for row in rows if row["split"] == "train"]
    of_train = {metric: value for (section, metric), value in report.items() if section == "train conversations"}
    assert of_train == {
        "conversations": "2",
        "with several assistant turns": "1",
        "assistant turns": "3",
        "tokens": str(sum(len(row["ids"]) for row in train)),
        "learned tokens": str(sum(sum(row["learned"]) for row in train)),
        "conversations that were cut": "0",
        "assistant turns that were cut off": "0",
        "user's turns at the end that were dropped": "1",
        "replies of trees beside the best path": "3",
        "share of tokens that is learned": of_train["share of tokens that is learned"],
    }
    assert report["validation conversations", "conversations"] == "1"
    assert report["quarantined", "all"] == "0"
