"""What belongs to a row's prompt, whatever its columns are called."""

import pytest
from preference_rows import USER, assistant

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.columns import rename_columns
from rao_kedro.data.formats import FORMATS, read_trl, sniff
from rao_kedro.data.quarantine import UnusableRow

SYSTEM = [{"role": "system", "content": "Be brief."}]
EARLIER = [{"role": "user", "content": "Yo?"}, {"role": "assistant", "content": "Yo."}]


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


def test_an_explicit_prompt_stays_before_the_turns_that_completions_share():
    turns = [assistant("Which?"), {"role": "user", "content": "That."}]
    row = {"prompt": USER, "chosen": [*turns, assistant("a")], "rejected": [*turns, assistant("b")]}
    group = FORMATS["trl"].read(row)
    assert (group.messages, group.responses) == ([*USER, *turns], ["a", "b"])


@pytest.mark.parametrize("name", ["images", "image", "audio", "videos", "tools"])
def test_a_prompt_with_more_than_text_is_not_read_without_it(name):
    row = {"prompt": "Hi?", "chosen": "a", "rejected": "b", name: ["x"]}
    with pytest.raises(UnusableRow, match=f"not_text: column {name} is not supported as part of a prompt"):
        FORMATS["trl"].read(row)
    columns = PreferenceSource(path="x", columns={name: None}).columns
    assert FORMATS["trl"].read(rename_columns(row, columns)).responses == ["a", "b"]
    for empty in ([], {}, "", None):
        assert FORMATS["trl"].read(row | {name: empty}).responses == ["a", "b"]
