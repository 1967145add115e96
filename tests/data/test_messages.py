"""Messages with roles, as data sets write them; and what is no dialogue of texts."""

import json

import pytest

from rao_kedro.data.messages import (
    add_system,
    check_prompt,
    is_visible,
    join_context,
    read_completion,
    read_dialogue,
    read_history,
    shared_context,
)
from rao_kedro.data.quarantine import UnusableRow


def user(text="Hi?"):
    return {"role": "user", "content": text}


def assistant(text="Yes."):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "value",
    [
        [user(), assistant(), user("So?")],
        [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes."}, {"from": "human", "value": "So?"}],
        [{"role": "prompter", "text": "Hi?"}, {"role": "chatbot", "text": "Yes."}, {"role": "User", "text": "So?"}],
        [{"role": "user", "content": "Hi?"}, {"role": "model", "content": "Yes."}, {"role": "HUMAN", "content": "So?"}],
        [user([{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}]), assistant(["Yes", "."]), user("So?")],
        [{**user(), "tool_calls": None}, {**assistant(), "tool_calls": [], "name": "x"}, user("So?")],
        json.dumps([user(), assistant(), {"from": "human", "value": "So?"}]),
        str([{"content": "Hi?", "role": "user"}, assistant(), user("So?")]),
        "\n\nHuman: Hi?\n\nAssistant: Yes.\n\nHuman: So?\n\nAssistant:",
        "Human: Hi?\n\nAssistant: Yes.\n\nHuman: So?",
        "Human: Hi?\nAssistant: Yes.\nHuman: So?\nAssistant:",
        "Hi?\n<extra_id_1>Assistant\nYes.\n<extra_id_1>User\nSo?",
    ],
)
def test_every_way_to_write_a_dialogue_is_the_same_dialogue(value):
    assert read_dialogue(value, "prompt") == [user(), assistant(), user("So?")]


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3]: sort it",
        '[{"role": "admin", "content": "root"}]',
        '{"content": "x"}',
        "Human: a word with six letters?",
        "What does \n\nHuman: mean in a log?",
    ],
)
def test_texts_that_only_look_like_chats_stay_texts(text):
    assert read_dialogue(text, "prompt") == [user(text)]
    assert read_completion(text, "chosen") == [assistant(text)]


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        ([user(None)], "empty_prompt", "a message of the user without content"),
        ([user(), assistant(None)], "empty_response", "a message of the assistant without content"),
        ([user(), {**assistant(None), "tool_calls": [{"function": {"name": "f"}}]}], "tool_call", "has tool_calls"),
        ([user(), {**assistant("x"), "function_call": {"name": "f"}}], "tool_call", "has function_call"),
        ([user(), {"role": "tool", "content": "3"}], "tool_call", "a message of role tool"),
        ([user([{"type": "image"}, {"type": "text", "text": "?"}])], "not_text", "a part of type image"),
        ([{**user(), "images": ["a.png"]}], "not_text", "a message with images"),
        ([user(), {**assistant(), "reasoning_content": "hm"}], "not_text", "reasoning_content"),
        ([{"role": "narrator", "content": "x"}], "bad_dialogue", "unknown role 'narrator'"),
        ([user(3)], "bad_type", "is not a list"),
        ([user("a\ud83d")], "invalid_text", "lone surrogate or a byte that is not UTF-8 at character 1"),
        ("a\udce9", "invalid_text", "prompt has a lone surrogate"),
        ([{"content": "x"}], "bad_type", "neither a text nor a list of messages"),
        (["a", "b"], "bad_type", "neither a text nor a list of messages"),
        ([], "bad_type", "neither a text nor a list of messages"),
        (7, "bad_type", "neither a text nor a list of messages"),
        (
            "[{'role': 'user', 'content': 'Hi?'}\n {'role': 'assistant', 'content': 'x'}]",
            "bad_type",
            "write it as JSON",
        ),
        ([{"role": "system", "content": None}], "empty_prompt", "no message with content"),
    ],
)
def test_what_cannot_be_read_says_why(value, reason, detail):
    with pytest.raises(UnusableRow, match=detail) as caught:
        read_dialogue(value, "prompt")
    assert caught.value.reason == reason


def test_a_response_is_the_last_message_and_it_is_the_assistants():
    assert read_completion({"from": "bot", "value": "Yes."}, "chosen") == [assistant()]
    assert read_completion([user(), assistant()], "chosen") == [user(), assistant()]
    assert read_completion("\n\nHuman: Hi?\n\nAssistant:", "chosen") == [user(), assistant("")]
    with pytest.raises(UnusableRow, match="bad_dialogue: the last message of chosen is of role user"):
        read_completion([SYSTEM, user(), user("Gear 0.")], "chosen")
    with pytest.raises(UnusableRow, match="empty_response: chosen is null"):
        read_completion(None, "chosen")


@pytest.mark.parametrize(
    ("prompt", "context", "joined"),
    [
        ([user()], [], [user()]),
        (None, [user()], [user()]),
        ([user()], [user()], [user()]),
        ([user("Hi? ")], [SYSTEM, user()], [SYSTEM, user()]),
        ([SYSTEM, user()], [user()], [SYSTEM, user()]),
        ([SYSTEM, user()], [SYSTEM, user(), assistant(), user("So?")], [SYSTEM, user(), assistant(), user("So?")]),
        ([user("So?")], [user(), assistant(), user("So?")], [user(), assistant(), user("So?")]),
        ([user()], [assistant(), user("So?")], [user(), assistant(), user("So?")]),
    ],
)
def test_completions_repeat_the_prompt_or_go_on_from_it(prompt, context, joined):
    assert join_context(prompt, shared_context([context, context])) == joined


@pytest.mark.parametrize(
    ("prompt", "contexts"),
    [
        ([user()], [[user("Yo?")], [user("Yo?")]]),
        ([SYSTEM, user()], [[{**SYSTEM, "content": "Be long."}, user()]] * 2),
        (None, [[user()], [user("Yo?")]]),
        (None, [[SYSTEM, user()], [user()]]),
    ],
)
def test_completions_of_another_prompt_are_no_preference(prompt, contexts):
    with pytest.raises(UnusableRow, match="different_prompts"):
        join_context(prompt, shared_context(contexts))


@pytest.mark.parametrize(
    ("contexts", "shared"),
    [
        ([[], [assistant(), user("So?")]], []),
        ([[user(), assistant(), user("So?")], [user(), assistant("No."), user("So?")]], [user()]),
        ([[user(), assistant(), user("So?")], [user(), assistant(), user("Oh?")]], [user()]),
        ([[SYSTEM, user()], [SYSTEM, user(" Hi?"), assistant(), user("So?")]], [SYSTEM, user()]),
        ([[assistant(), user("So?")], [assistant(), user("Oh?")]], []),
    ],
)
def test_dialogues_share_what_comes_before_they_part_up_to_a_message_of_the_user(contexts, shared):
    assert shared_context(contexts) == shared


def test_a_column_of_the_system_is_a_message():
    assert add_system({"system": "Be brief."}, [user()]) == [SYSTEM, user()]
    assert add_system({"system_prompt": "Be brief."}, [SYSTEM, user()]) == [SYSTEM, user()]
    assert add_system({"system": "", "system_prompt": "Be brief."}, [user()]) == [SYSTEM, user()]
    assert add_system({"system": ""}, [user()]) == add_system({"system": None}, [user()]) == [user()]
    with pytest.raises(UnusableRow, match="bad_dialogue: column system differs from the system message"):
        add_system({"system": "Be long."}, [SYSTEM, user()])
    with pytest.raises(UnusableRow, match="bad_type: column system is not a text"):
        add_system({"system": 3}, [user()])


def test_history_is_pairs_or_messages():
    assert read_history([["Hi?", "Yes."]]) == read_history('[["Hi?", "Yes."]]') == [user(), assistant()]
    assert read_history([{"from": "human", "value": "Hi?"}]) == [user()]
    with pytest.raises(UnusableRow, match="history is neither"):
        read_history(["Hi?", "Yes."])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty_prompt"),
        ([user(" \u200b\n")], "empty_prompt"),
        ([SYSTEM], "bad_dialogue"),
        ([user(), assistant()], "bad_dialogue"),
        ([assistant(), user()], "bad_dialogue"),
        ([user(), user()], "bad_dialogue"),
        ([user(), SYSTEM, user()], "bad_dialogue"),
        ([SYSTEM, SYSTEM, user()], "bad_dialogue"),
    ],
)
def test_a_prompt_is_a_dialogue_that_the_user_begins_and_ends(messages, reason):
    check_prompt([user()])
    check_prompt([SYSTEM, user(), assistant(), user()])
    with pytest.raises(UnusableRow) as caught:
        check_prompt(messages)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n",
        "<s>[INST] Hi? [/INST]",
        "<|prompter|>Hi?<|endoftext|><|assistant|>",
        "### Human: Hi?\n### Assistant:",
        "Below is an instruction.\n\n### Instruction:\nHi?\n\n### Response:\n",
    ],
)
def test_a_prompt_with_a_template_applied_is_none(text):
    with pytest.raises(UnusableRow, match="bad_dialogue: a chat template was already applied to the prompt"):
        check_prompt([user(text)])
    check_prompt([user("What does <|im_start|>user mean?")])
    check_prompt([user("### Instruction: write a poem")])


def test_text_of_no_width_is_no_text():
    hidden = ["", " \n\t", "\u200b\ufeff", "\u00ad\u2060", "\x00\x07", "\u3164", "\u2800", "\ufe0f", "\U000e0041"]
    assert not any(map(is_visible, hidden))
    assert all(map(is_visible, ["a", "\u200b.", "\u4f60", "\ufffd", "\U0001f600", "\u2764\ufe0f"]))
