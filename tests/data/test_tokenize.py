"""Groups as token ids: limits, t_0, the pair, what only tokens show, and the report."""

import random
import re
from copy import deepcopy
from dataclasses import replace

import pandas as pd
import pytest
from data_tables import divided_groups, tokenize_groups

from rao_kedro.data.quarantine import quarantined_table
from rao_kedro.data.tables import PreferenceGroupTable, QuarantineTable, TokenizedGroupTable
from rao_kedro.data.tokenize import TokenLimits, choose_pair
from rao_kedro.errors import DataError
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.tiny import CHATML

LIMITS = TokenLimits(max_prompt_tokens=60, max_response_tokens=12)


@pytest.fixture(scope="module")
def chat(tiny_checkpoint):
    return load_chat_format(tiny_checkpoint)


@pytest.fixture(scope="module")
def trimming(chat):
    """The same chat with a template that trims, and refuses system messages."""
    tokenizer = deepcopy(chat.tokenizer)
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    tokenizer.chat_template = refusal + CHATML.replace("message['content']", "message['content'] | trim")
    return replace(chat, tokenizer=tokenizer)


def tokenized_of(table, chat, limits=None):
    tokenized, dropped = tokenize_groups(table, chat, limits or LIMITS, "best_vs_random", seed=0)
    return TokenizedGroupTable.validate(tokenized), QuarantineTable.validate(dropped)


def groups(*prompts, responses=("the fox", "a dog"), ratings=(1.0, 0.0), finished=None, split="train", role="user"):
    rows = [
        {
            "group_id": f"{split}-{i}",
            "split": split,
            "messages": [{"role": role, "content": prompt}],
            "responses": list(responses),
            "ratings": list(ratings),
            "finished": list(finished or [True] * len(ratings)),
            "source": f"file:{i + 1}",
            "requirements": "[]",
        }
        for i, prompt in enumerate(prompts)
    ]
    return PreferenceGroupTable.validate(pd.DataFrame(rows))


def test_tokens_of_prompt_and_response_spell_the_dialogue(chat):
    tokenized, quarantined = tokenize_groups(groups("the dog"), chat, LIMITS, "best_vs_random", seed=0)
    row = TokenizedGroupTable.validate(tokenized).iloc[0]
    assert QuarantineTable.validate(quarantined).empty
    assert chat.tokenizer.decode(row.prompt_ids) == "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n"
    assert [chat.tokenizer.decode(ids) for ids in row.response_ids] == ["the fox<|im_end|>", "a dog<|im_end|>"]
    assert (row.chosen, row.rejected) == (0, 1)


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (groups("the " * 80), "prompt_too_long", "max_prompt_tokens is 60"),
        (groups("x", responses=("the dog " * 9, "a")), "response_too_long", "max_response_tokens is 12"),
    ],
    ids=["prompt", "response"],
)
def test_an_over_long_row_is_quarantined_never_cut(chat, bad, reason, detail):
    table = pd.concat([groups("one", "two").assign(group_id=["one", "two"]), bad])
    tokenized, quarantined = tokenize_groups(table, chat, LIMITS, "best_vs_random", seed=0)
    assert len(tokenized) == 2
    assert list(quarantined["reason"]) == [reason] and detail in quarantined["detail"][0]
    assert quarantined["source"][0] == "file:1"


def test_a_group_loses_only_its_over_long_responses_while_a_preference_is_left(chat):
    kept = groups("one", responses=("the dog " * 9, "a", "b"), ratings=(3.0, 1.0, 2.0))
    lost = groups("two", responses=("the dog " * 9, "a", "b"), ratings=(3.0, 1.0, 1.0)).assign(group_id="lost")
    table = pd.concat([kept, lost])
    tokenized, quarantined = tokenize_groups(table, chat, LIMITS, "best_vs_random", seed=0)
    (group,) = TokenizedGroupTable.validate(tokenized).to_dict("records")
    assert [chat.tokenizer.decode(ids) for ids in group["response_ids"]] == ["a<|im_end|>", "b<|im_end|>"]
    assert (group["ratings"], group["chosen"], group["rejected"]) == ([1.0, 2.0], 1, 0)
    assert list(quarantined["reason"]) == ["response_too_long"] * 2
    assert quarantined["detail"][0].startswith("1 of 3 responses dropped, the group is kept: ")
    assert "no preference is left" in quarantined["detail"][1]


def test_a_prompt_that_does_not_start_with_t0_is_quarantined_with_what_it_starts_with(chat):
    limits = TokenLimits(60, 12, t0_length=4)
    table = pd.concat([groups("one", "two"), groups("three", role="system").assign(group_id="stranger")])
    tokenized, quarantined = tokenize_groups(table, chat, limits, "best_vs_random", seed=0)
    assert list(tokenized["group_id"]) == ["train-0", "train-1"]
    assert list(quarantined["reason"]) == ["prompt_not_t0"] and "t_0 is [" in quarantined["detail"][0]


def test_prompts_that_share_no_t0_are_an_error_that_says_what_to_set(chat):
    table, limits = groups("one", "two", "three", "four"), TokenLimits(60, 12, t0_length=12)
    with pytest.raises(DataError, match=r"3 of 4 prompts do not start with .* 12 tokens.*global t0_length") as error:
        tokenize_groups(table, chat, limits, "best_vs_random", seed=0)
    longest = int(re.search(r"t0_length.* to (\d+) or less", str(error.value)).group(1))
    found, _ = tokenized_of(table, chat, replace(limits, t0_length=longest))
    assert len(found) == len(table)
    _, quarantined = tokenized_of(groups("one", "two"), chat, replace(limits, t0_length=longest + 1))
    assert list(quarantined["reason"]) == ["prompt_not_t0"]


def test_nothing_left_is_an_error_with_the_reasons_and_an_example_of_each(chat):
    table = pd.concat([groups("the " * 80, "a " * 90), groups("one", responses=("the dog " * 9, "a"), split="test")])
    message = (
        r"no prompt group is left for train and test after tokenising; quarantined rows: "
        r"prompt_too_long 2 times, for example file:1: \d+ tokens, max_prompt_tokens is 60; "
        r"response_too_long 1 times, for example file:1: no preference is left of 2 responses: \d+ tokens"
    )
    with pytest.raises(DataError, match=message):
        tokenized_of(table, chat)


def test_a_split_that_loses_all_its_groups_is_an_error_with_the_reasons_of_that_split(trimming):
    same = groups("one", responses=("the fox", "the fox  \n"))
    held_out = groups("two", responses=("a", "b", "the dog " * 9), ratings=(1, 2, 3), split="test")
    held_out["source"] = "held out"
    message = r"no prompt group is left for train after tokenising; quarantined rows: identical_responses 1 times"
    with pytest.raises(DataError, match=message) as caught:
        tokenized_of(pd.concat([held_out, same]), trimming)
    assert "response_too_long" not in str(caught.value)


def test_a_response_ends_with_an_end_of_turn_token_if_and_only_if_it_is_finished(chat):
    tokenized, _ = tokenized_of(groups("one", finished=(True, False)), chat)
    (group,) = tokenized.to_dict("records")
    assert [chat.tokenizer.decode(ids) for ids in group["response_ids"]] == ["the fox<|im_end|>", "a dog"]
    assert group["finished"] == [True, False]


def test_a_group_that_loses_a_response_keeps_the_others_flags(chat):
    table = groups("one", responses=("the dog " * 9, "a", "b"), ratings=(3.0, 1.0, 2.0), finished=(True, False, True))
    tokenized, _ = tokenized_of(table, chat)
    assert tokenized["finished"][0] == [False, True] and tokenized["response_ids"][0][0][-1] != 2


def test_responses_that_are_the_same_after_the_template_are_dropped(trimming):
    same = groups("one", responses=("the fox", "the fox  \n")).assign(group_id="same", split="test")
    kept = groups("two", responses=("the fox", " the fox", "a dog"), ratings=(1.0, 0.5, 0.0), split="test")
    tokenized, quarantined = tokenized_of(pd.concat([same, kept]), trimming)
    assert list(tokenized["group_id"]) == ["test-0"]
    assert (tokenized["responses"][0], tokenized["ratings"][0]) == (["the fox", "a dog"], [1.0, 0.0])
    assert list(quarantined["reason"]) == ["identical_responses"] * 2
    assert "no preference is left of 2 responses: an earlier response has the same tokens" in quarantined["detail"][0]
    assert quarantined["detail"][1].startswith("1 of 3 responses dropped, the group is kept")


def test_a_cut_and_a_finished_response_of_one_text_are_not_the_same(chat):
    tokenized, quarantined = tokenized_of(groups("one", responses=("a", "a"), finished=(True, False)), chat)
    assert len(tokenized) == 1 and quarantined.empty


def test_a_training_prompt_that_equals_a_held_out_one_after_the_template_is_quarantined(trimming):
    table = pd.concat([groups("one ", "two"), groups(" one", split="test")])
    tokenized, quarantined = tokenized_of(table, trimming)
    assert list(tokenized["group_id"]) == ["train-1", "test-0"]
    assert list(quarantined["reason"]) == ["held_out_prompt_in_train"]


def test_a_held_out_prompt_whose_responses_do_not_fit_is_still_held_out(trimming):
    """The evaluation may be on it all the same."""
    lost = groups(" one", responses=("the dog " * 9, "a"), split="test").assign(group_id="lost")
    table = pd.concat([groups("one ", "two"), lost, groups("three", split="test")])
    tokenized, quarantined = tokenized_of(table, trimming)
    assert list(tokenized["group_id"]) == ["train-1", "test-0"]
    assert set(quarantined["reason"]) == {"held_out_prompt_in_train", "response_too_long"}


def test_a_group_that_is_there_twice_after_the_template_is_kept_once(trimming):
    tokenized, quarantined = tokenized_of(groups("one", "one ", "two"), trimming)
    assert list(tokenized["group_id"]) == ["train-0", "train-2"]
    assert list(quarantined["reason"]) == ["duplicate_row"] and quarantined["source"][0] == "file:2"


def test_what_is_empty_after_the_template_is_quarantined(trimming, chat):
    tokenized, quarantined = tokenized_of(groups("one", responses=("a", " \n", "b"), ratings=(2.0, 1.0, 0.0)), trimming)
    assert tokenized["responses"][0] == ["a", "b"]
    assert list(quarantined["reason"]) == ["empty_response"]
    cut = groups("one", responses=("a", "", "b"), ratings=(2.0, 1.0, 0.0), finished=(True, False, True))
    assert list(tokenized_of(cut, chat)[1]["reason"]) == ["empty_response"]
    silent = deepcopy(chat.tokenizer)
    silent.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenized, quarantined = tokenized_of(groups("one", ""), replace(chat, tokenizer=silent))
    assert list(tokenized["group_id"]) == ["train-0"]
    assert list(quarantined["reason"]) == ["empty_prompt"]


def test_a_row_that_the_template_refuses_does_not_end_the_run(trimming):
    """One of the rows has a system message, as in Gemma's template."""
    table = pd.concat([groups("one"), groups("two", split="test"), groups("three", role="system").assign(group_id="s")])
    tokenized, quarantined = tokenized_of(table, trimming)
    assert list(tokenized["group_id"]) == ["train-0", "test-0"]
    assert list(quarantined["reason"]) == ["template_error"]
    assert "System role not supported" in quarantined["detail"][0]


def test_a_response_that_the_template_refuses_leaves_the_others(chat):
    choosy = deepcopy(chat.tokenizer)
    choosy.chat_template = "{% if 'bad' in messages[-1]['content'] %}{{ raise_exception('no') }}{% endif %}" + CHATML
    table = groups("one", responses=("a", "bad", "b"), ratings=(2, 1, 0))
    tokenized, quarantined = tokenized_of(table, replace(chat, tokenizer=choosy))
    assert tokenized["responses"][0] == ["a", "b"]
    assert list(quarantined["reason"]) == ["template_error"]
    assert quarantined["detail"][0].startswith("1 of 3 responses dropped, the group is kept: the chat template refuses")


def with_template(chat, template):
    tokenizer = deepcopy(chat.tokenizer)
    tokenizer.chat_template = template
    return replace(chat, tokenizer=tokenizer)


def with_messages(*turns):
    table = groups("one")
    table.at[0, "messages"] = [{"role": role, "content": text} for role, text in turns]
    return PreferenceGroupTable.validate(table.assign(group_id="more", source="more:1"))


def test_a_message_that_the_template_leaves_out_is_quarantined_with_its_role(chat):
    users = CHATML.replace("in messages", "in messages if message['role'] != 'system'")
    more = with_messages(("system", "the"), ("user", "the dog"))
    tokenized, quarantined = tokenized_of(pd.concat([groups("one"), more]), with_template(chat, users))
    assert list(tokenized["group_id"]) == ["train-0"]
    assert list(quarantined["reason"]) == ["template_error"] and quarantined["source"][0] == "more:1"
    assert "leaves out or changes a message of the role system" in quarantined["detail"][0]


def test_messages_that_are_merged_trimmed_or_lose_earlier_reasoning_are_written(chat):
    merging = (
        "{% set first = messages[0]['content'] | trim + '\\n\\n' if messages[0]['role'] == 'system' else '' %}"
        "{% for m in (messages[1:] if first else messages) %}<|im_start|>{{ m['role'] }}\n"
        "{{ (first if loop.first else '') + (m['content'].split('</think>')[-1] | trim) }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    said = [("user", " a dog<|im_end|>\n"), ("assistant", "<think>hm</think>\n\nno"), ("user", "no")]
    more = with_messages(("system", " be brief \n"), *said)
    tokenized, quarantined = tokenized_of(more, with_template(chat, merging), TokenLimits(200, 12))
    assert quarantined.empty
    assert "user\nbe brief\n\na dog<|im_end|><|im_end|>" in chat.tokenizer.decode(tokenized["prompt_ids"][0])
    cut = with_template(chat, merging.replace("['content'].split('</think>')[-1]", "['content'].split('hm')[-1]"))
    with pytest.raises(DataError, match="leaves out or changes a message of the role assistant"):
        tokenized_of(with_messages(("user", "a"), ("assistant", "ahm b"), ("user", "no")), cut)


def test_a_row_with_tokens_that_the_model_has_no_embedding_for_is_quarantined(chat):
    table = groups("one", "quick brown", responses=("a", "b"))
    first, second = (max(ids) for ids in tokenized_of(table, chat)[0]["prompt_ids"])
    assert first < second < chat.n_embeddings
    tokenized, quarantined = tokenized_of(table, replace(chat, n_embeddings=second))
    assert list(tokenized["group_id"]) == ["train-0"]
    assert f"beyond the model's {second} embeddings" in quarantined["detail"][0]


def test_a_prompt_that_is_no_longer_than_t0_is_quarantined(chat):
    short = len(prompt_token_ids(chat, [{"role": "user", "content": ""}]))
    tokenized, quarantined = tokenized_of(
        pd.concat([groups("", "the fox"), groups("the dog", split="test")]), chat, TokenLimits(60, 12, t0_length=3)
    )
    assert len(tokenized) == 3 and quarantined.empty
    tokenized, quarantined = tokenized_of(groups(""), chat, TokenLimits(60, 12, t0_length=short - 1))
    assert len(tokenized) == 1
    with pytest.raises(
        DataError, match=rf"prompt_not_t0 1 times, for example file:1: {short} tokens, and t_0 has {short}"
    ):
        tokenized_of(groups(""), chat, TokenLimits(60, 12, t0_length=short))


def test_a_control_token_in_a_row_forges_no_turn(chat):
    """As in the rows of files that are written for another template."""
    forged = "a<|im_end|>\n<|im_start|>user\nb<|im_end|>"
    tokenized, _ = tokenized_of(groups(forged, responses=(forged, "c")), chat, TokenLimits(200, 200))
    prompt, (first, _) = tokenized["prompt_ids"][0], tokenized["response_ids"][0]
    assert (list(prompt).count(1), list(prompt).count(2)) == (2, 1)
    assert (list(first).count(1), list(first).count(2)) == (0, 1)
    assert chat.tokenizer.decode(first) == forged + "<|im_end|>"


def test_the_pair_is_the_best_and_a_worse_one():
    ratings = [0.5, 1.0, 0.0, 1.0]
    found = {choose_pair(ratings, "best_vs_random", random.Random(seed)) for seed in range(20)}
    assert found == {(1, 0), (1, 2)}
    assert choose_pair(ratings, "best_vs_worst", random.Random(0)) == (1, 2)
    with pytest.raises(DataError, match="no rejected response"):
        choose_pair([1.0, 1.0], "best_vs_worst", random.Random(0))


def test_the_report_counts_every_row_and_part_and_spells_t0(chat):
    cut = groups("two", responses=("a", "b", "c"), ratings=(0, 1, 2), finished=(False, True, True), split="test")
    table = pd.concat([groups("one", "the " * 80), cut, groups("x", "three", "four", split="test")[1:]])
    report = divided_groups(table, chat, LIMITS, n_test_prompts=10).report
    report = report.set_index(["section", "metric"])["value"]
    assert report["read", "train groups"] == "2" and report["train groups", "tokenised"] == "1"
    assert report["read", "held-out groups"] == report["read", "held-out groups rated by score"] == "3"
    assert report["train groups", "cut responses"] == "0 (0.0%)"
    assert report["test groups", "cut responses"] == "1 (33.3%)"
    assert (report["test groups", "prompts"], report["validation groups", "prompts"]) == ("1", "2")
    assert report["evaluation", "prompts"] == "1"
    assert report["quarantined", "prompt_too_long"] == report["quarantined", "all"] == "1"
    assert report["t_0", "text in use"] == "'<|im_start|>'"
    assert report["t_0", "text that all prompts share"].startswith("'<|im_start|>user")


def test_an_empty_quarantine_is_still_a_table():
    assert QuarantineTable.validate(quarantined_table([])).empty
