"""Responses of several turns: `assistant_turns: all` learns what the assistant writes in them, and reads the rest."""

import json

import pandas as pd
import pytest
from chats import STYLES, chat_of
from data_tables import read_preferences, tokenize_groups

from rao_kedro.config.data_engineering import PreferenceFiles
from rao_kedro.data.tables import PreferenceGroupTable, TokenizedGroupTable
from rao_kedro.data.token_tables import PromptGroups, read_groups, read_groups_in_table_order
from rao_kedro.data.tokenize import TokenLimits
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.conversation_tokens import ConversationTokenizer

LIMITS = TokenLimits(max_prompt_tokens=100, max_response_tokens=200)


def turns(*texts, start=0):
    return [{"role": ("user", "assistant")[(start + i) % 2], "content": text} for i, text in enumerate(texts)]


CHOSEN = turns("the fox", "a dog?", "no", "the quick fox jumps")
REJECTED = turns("the fox", "what?", "the lazy dog", "the fox")


def read(tmp_path, *rows, assistant_turns="all"):
    for name, of in (("train", rows), ("test", [{"prompt": "held out", "chosen": "a", "rejected": "b"}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))
    sources = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "test")}
    sources["train"]["assistant_turns"] = assistant_turns
    groups, quarantined = read_preferences(PreferenceFiles(**sources))
    PreferenceGroupTable.validate(groups)
    return groups[groups["split"] == "train"].reset_index(drop=True), quarantined


def test_dialogues_that_part_early_are_quarantined_unless_all_their_turns_are_responses(tmp_path):
    row = {"chosen": CHOSEN, "rejected": REJECTED}
    other = {"prompt": "Hi?", "chosen": "a", "rejected": "b"}
    groups, quarantined = read(tmp_path, row, other, assistant_turns="last")
    assert len(groups) == 1 and groups["earlier_turns"][0] is None
    assert list(quarantined["reason"]) == ["different_prompts"] and "assistant_turns: all" in quarantined["detail"][0]

    groups, quarantined = read(tmp_path, row, other)
    assert quarantined.empty
    assert groups["messages"][0] == CHOSEN[:1]
    assert groups["earlier_turns"][0] == [CHOSEN[1:3], REJECTED[1:3]] and groups["earlier_turns"][1] is None
    assert groups["responses"][0] == ["the quick fox jumps", "the fox"]


def test_what_dialogues_share_is_their_prompt_whatever_the_parameter(tmp_path):
    row = {"chosen": CHOSEN, "rejected": [*CHOSEN[:3], *turns("the fox", start=1)]}
    found = [read(tmp_path, row, assistant_turns=value)[0].iloc[0] for value in ("last", "all")]
    assert found[0]["messages"] == found[1]["messages"] == CHOSEN[:3]
    assert found[0]["group_id"] == found[1]["group_id"] and found[1]["earlier_turns"] is None


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "the fox", "chosen": CHOSEN[1:], "rejected": REJECTED[1:]},
        {"prompt": "the fox", "chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": CHOSEN[:1], "responses": [CHOSEN, REJECTED], "ratings": [2, 1]},
        {
            "chosen": "\n\nHuman: the fox\n\nAssistant: a dog?\n\nHuman: no\n\nAssistant: the quick fox jumps",
            "rejected": "\n\nHuman: the fox\n\nAssistant: what?\n\nHuman: the lazy dog\n\nAssistant: the fox",
        },
    ],
    ids=["continued", "repeated", "rated", "hh_rlhf"],
)
def test_every_form_of_the_dialogues_is_the_same_group(tmp_path, row):
    group = read(tmp_path, row)[0].iloc[0]
    assert group["messages"] == CHOSEN[:1] and group["earlier_turns"] == [CHOSEN[1:3], REJECTED[1:3]]


def test_a_response_of_one_turn_may_stand_beside_one_of_several(tmp_path):
    groups, _ = read(tmp_path, {"prompt": "the fox", "chosen": CHOSEN[1:], "rejected": "the fox"})
    assert groups["earlier_turns"][0] == [CHOSEN[1:3], []]


def test_responses_that_end_alike_differ_by_their_earlier_turns(tmp_path):
    ending = [*REJECTED[:3], CHOSEN[3]]
    groups, quarantined = read(
        tmp_path, {"chosen": CHOSEN, "rejected": ending}, {"chosen": CHOSEN, "rejected": REJECTED}
    )
    assert quarantined.empty and groups["group_id"].nunique() == 2


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (turns("the dog", "a dog?", "no", "the quick fox jumps"), "different_prompts"),
        ([*CHOSEN[:2], *CHOSEN[1:]], "different_prompts"),
        (turns("the fox", " ", "no", "the quick fox jumps"), "empty_response"),
    ],
    ids=["another prompt", "two turns of the assistant", "an empty turn"],
)
def test_dialogues_that_are_no_responses_to_one_prompt_are_quarantined(tmp_path, chosen, reason):
    rows = {"chosen": chosen, "rejected": REJECTED}, {"prompt": "Hi?", "chosen": "a", "rejected": "b"}
    groups, quarantined = read(tmp_path, *rows)
    assert len(groups) == 1 and list(quarantined["reason"]) == [reason]


def preference_groups(finished=(True, True)):
    several = {
        "group_id": "several",
        "split": "train",
        "messages": CHOSEN[:1],
        "responses": [CHOSEN[3]["content"], REJECTED[3]["content"]],
        "ratings": [0.0, 1.0],
        "finished": list(finished),
        "source": "file:1",
        "requirements": "[]",
        "earlier_turns": [CHOSEN[1:3], REJECTED[1:3]],
    }
    held_out = {"messages": turns("the dog"), "earlier_turns": None, "finished": [True, True]}
    return pd.DataFrame([several, several | {"group_id": "one", "split": "test"} | held_out])


@pytest.fixture(params=[name for name in STYLES if name != "Qwen3"])
def chat(request, tmp_path):
    return chat_of(tmp_path / "chat", STYLES[request.param])


def test_the_assistants_turns_are_learned_and_the_users_are_only_read(chat):
    """The plain path: every turn as the response to the dialogue before it."""
    tokenizer = ConversationTokenizer(chat)
    ids, learned = tokenizer.continue_prompt(CHOSEN[:1], CHOSEN[1:])
    whole = tokenizer.tokenize(CHOSEN)
    assert [*prompt_token_ids(chat, CHOSEN[:1]), *ids] == whole.ids
    last = response_token_ids(chat, CHOSEN[:3], CHOSEN[3]["content"])
    assert ids[-len(last) :] == last and learned[0] and all(learned[-len(last) :])
    shown = chat.tokenizer.decode([token for token, is_learned in zip(ids, learned, strict=True) if is_learned])
    assert "a dog?" in shown and "the quick fox jumps" in shown and "no" not in shown

    cut, mask = tokenizer.continue_prompt(CHOSEN[:1], CHOSEN[1:], finished=False)
    assert (cut, mask) == (ids[:-1], learned[:-1])


def test_tokens_and_masks_come_back_in_the_order_of_training(chat, tmp_path):
    tokenized, quarantined = tokenize_groups(preference_groups(), chat, LIMITS, "best_vs_random", seed=0)
    assert quarantined.empty
    TokenizedGroupTable.validate(tokenized)
    expected = [ConversationTokenizer(chat).continue_prompt(of[:1], of[1:]) for of in (CHOSEN, REJECTED)]
    path = tmp_path / "groups.parquet"
    tokenized.to_parquet(path)
    in_table, _ = read_groups_in_table_order(path)
    assert [list(ids) for ids in in_table.response_ids] == [ids for ids, _ in expected]
    (trained,) = read_groups(path, "train")
    (only_chosen,) = read_groups(path, "train", responses=1)
    (one_turn,) = read_groups(path, "test")
    masks = [learned for _, learned in expected]
    assert [list(mask) for mask in in_table.learned] == masks
    assert [list(mask) for mask in trained.learned] == masks[::-1]  # the better rated response comes first
    assert [list(mask) for mask in only_chosen.learned] == masks[1:]
    assert trained.response_lengths == [sum(mask) for mask in masks[::-1]]
    assert one_turn.learned is None
    several, one = PromptGroups(path)
    assert [several.before(i) for i in (0, 1)] == [CHOSEN[:3], REJECTED[:3]] and one.before(1) == turns("the dog")


def test_a_response_that_was_cut_has_no_end_of_turn(chat):
    tokenized, _ = tokenize_groups(preference_groups((False, True)), chat, LIMITS, "best_vs_random", seed=0)
    cut, finished = tokenized["response_ids"][0]
    assert cut[-1] not in chat.end_of_turn_ids and finished[-1] in chat.end_of_turn_ids
    assert [len(mask) for mask in tokenized["learned"][0]] == [len(cut), len(finished)]


def test_a_template_that_writes_more_before_the_last_turn_cannot_have_responses_of_several(tmp_path):
    chat = chat_of(tmp_path / "chat", STYLES["Qwen3"])
    table = pd.concat([preference_groups(), preference_groups()[1:].assign(split="train", messages=[turns("fox")])])
    tokenized, quarantined = tokenize_groups(
        table.assign(group_id=["several", "one", "other"]), chat, LIMITS, "best_vs_random", seed=0
    )
    assert list(tokenized["group_id"]) == ["other", "one"]
    assert list(quarantined["reason"]) == ["template_error"] and "an empty thought" in quarantined["detail"][0]
