"""Groups as token ids: limits, t_0, the pair, and the report; and the shipped prompts as groups."""

import random

import pandas as pd
import pytest

from rao_kedro.errors import DataError
from rao_kedro.models.chat import load_tokenizer
from rao_kedro.preferences.quarantine import quarantined_table
from rao_kedro.preferences.report import data_report
from rao_kedro.preferences.sampled import evaluation_prompts, prompts_of_groups, prompts_to_sample, rate_by_rules
from rao_kedro.preferences.tokenize import TokenLimits, choose_pair, tokenize_groups
from rao_kedro.schemas.tables import EvaluationPrompts, PreferenceGroups, QuarantinedRows, TokenizedGroups

LIMITS = TokenLimits(max_prompt_tokens=60, max_response_tokens=12)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return load_tokenizer(tiny_checkpoint)


def groups(*prompts, responses=("the fox", "a dog"), ratings=(1.0, 0.0), split="train", role="user"):
    rows = [
        {
            "group_id": f"{split}-{i}",
            "split": split,
            "messages": [{"role": role, "content": prompt}],
            "responses": list(responses),
            "ratings": list(ratings),
            "finished": [True] * len(ratings),
            "source": f"file:{i + 1}",
            "requirements": "[]",
        }
        for i, prompt in enumerate(prompts)
    ]
    return PreferenceGroups.validate(pd.DataFrame(rows))


def test_tokens_of_prompt_and_response_spell_the_dialogue(tokenizer):
    tokenized, quarantined = tokenize_groups(groups("the dog"), tokenizer, LIMITS, "best_vs_random", seed=0)
    row = TokenizedGroups.validate(tokenized).iloc[0]
    assert QuarantinedRows.validate(quarantined).empty
    assert tokenizer.decode(row.prompt_ids) == "<|im_start|>user\nthe dog<|im_end|>\n<|im_start|>assistant\n"
    assert [tokenizer.decode(ids) for ids in row.response_ids] == ["the fox<|im_end|>", "a dog<|im_end|>"]
    assert (row.chosen, row.rejected) == (0, 1)


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (groups("the " * 80), "prompt_too_long", "max_prompt_tokens is 60"),
        (groups("x", responses=("the dog " * 9, "a")), "response_too_long", "max_response_tokens is 12"),
    ],
    ids=["prompt", "response"],
)
def test_an_over_long_row_is_quarantined_never_cut(tokenizer, bad, reason, detail):
    table = pd.concat([groups("one", "two", split="test"), bad])
    tokenized, quarantined = tokenize_groups(table, tokenizer, LIMITS, "best_vs_random", seed=0)
    assert len(tokenized) == 2
    assert list(quarantined["reason"]) == [reason] and detail in quarantined["detail"][0]
    assert quarantined["source"][0] == "file:1"


def test_a_group_loses_only_its_over_long_responses_while_a_preference_is_left(tokenizer):
    kept = groups("one", responses=("the dog " * 9, "a", "b"), ratings=(3.0, 1.0, 2.0))
    lost = groups("two", responses=("the dog " * 9, "a", "b"), ratings=(3.0, 1.0, 1.0), split="test")
    table = pd.concat([kept, lost])
    tokenized, quarantined = tokenize_groups(table, tokenizer, LIMITS, "best_vs_random", seed=0)
    (group,) = TokenizedGroups.validate(tokenized).to_dict("records")
    assert [tokenizer.decode(ids) for ids in group["response_ids"]] == ["a<|im_end|>", "b<|im_end|>"]
    assert (group["ratings"], group["chosen"], group["rejected"]) == ([1.0, 2.0], 1, 0)
    assert list(quarantined["reason"]) == ["response_too_long"] * 2
    assert quarantined["detail"][0] == "1 of 3 responses dropped, the group is kept"
    assert "no preference is left" in quarantined["detail"][1]


def test_a_prompt_that_does_not_start_with_t0_is_quarantined_with_what_it_starts_with(tokenizer):
    limits = TokenLimits(60, 12, t0_length=4)
    table = pd.concat([groups("one", "two"), groups("three", split="test", role="system")])
    tokenized, quarantined = tokenize_groups(table, tokenizer, limits, "best_vs_random", seed=0)
    assert list(tokenized["group_id"]) == ["train-0", "train-1"]
    assert list(quarantined["reason"]) == ["prompt_not_t0"] and "t_0 is [" in quarantined["detail"][0]


def test_prompts_that_share_no_t0_are_an_error_that_says_what_to_set(tokenizer):
    limits = TokenLimits(60, 12, t0_length=12)
    with pytest.raises(DataError, match=r"3 of 4 prompts do not start with .* 12 tokens.*set data\.t0_length"):
        tokenize_groups(groups("one", "two", "three", "four"), tokenizer, limits, "best_vs_random", seed=0)


def test_nothing_left_is_an_error_that_counts_the_reasons(tokenizer):
    with pytest.raises(DataError, match=r"no prompt group is left.*prompt_too_long 1 times, .*file:1: 99 tokens"):
        tokenize_groups(groups("the " * 80), tokenizer, LIMITS, "best_vs_random", seed=0)


def test_the_pair_is_the_best_and_a_worse_one():
    ratings = [0.5, 1.0, 0.0, 1.0]
    found = {choose_pair(ratings, "best_vs_random", random.Random(seed)) for seed in range(20)}
    assert found == {(1, 0), (1, 2)}
    assert choose_pair(ratings, "best_vs_worst", random.Random(0)) == (1, 2)
    with pytest.raises(DataError, match="no rejected response"):
        choose_pair([1.0, 1.0], "best_vs_worst", random.Random(0))


def test_the_report_counts_every_row_and_spells_t0(tokenizer):
    table = pd.concat([groups("one", "the " * 80), groups("two", split="test")])
    tokenized, dropped = tokenize_groups(table, tokenizer, LIMITS, "best_vs_random", seed=0)
    report = data_report(table, dropped, tokenized, tokenizer, t0_length=1).set_index(["section", "metric"])["value"]
    assert report["train groups", "read"] == "2" and report["train groups", "tokenised"] == "1"
    assert report["quarantined", "prompt_too_long"] == report["quarantined", "all"] == "1"
    assert report["t_0", "text in use"] == "'<|im_start|>'"
    assert report["t_0", "text that all prompts share"].startswith("'<|im_start|>user")


def test_evaluation_prompts_of_preference_data_fit_the_prompt_limit(tokenizer):
    table = pd.concat([groups("train"), groups("the " * 80, "one", "two", "three", split="test")])
    found = EvaluationPrompts.validate(prompts_of_groups(table, 2, tokenizer, 60))
    assert list(found["prompt_id"]) == ["test-1", "test-2"]


@pytest.fixture
def prompts():
    rows = [
        {
            "prompt_id": f"{split}{i}",
            "template": "t",
            "split": split,
            "messages": [{"role": "user", "content": f"{split} {i}"}],
            "requirements": [{"check": "max_words", "limit": 2}],
        }
        for split in ("train", "test")
        for i in range(4)
    ]
    return pd.DataFrame(rows)


def test_the_evaluation_sees_no_prompt_that_was_sampled_from(prompts):
    sampled = prompts_to_sample(prompts, 3, 2)
    held_out = EvaluationPrompts.validate(evaluation_prompts(prompts, skip=2, n=2))
    assert list(sampled["prompt_id"]) == ["train0", "train1", "train2", "test0", "test1"]
    assert list(held_out["prompt_id"]) == ["test2", "test3"]
    with pytest.raises(DataError, match="5 of split train are asked for, 4 are there"):
        prompts_to_sample(prompts, 5, 1)


def test_samples_are_rated_by_the_rules_and_ties_quarantined(prompts):
    chosen = prompts_to_sample(prompts, 2, 1)
    texts = {"train0": ["one two", "one two three"], "train1": ["a b", "c d"], "test0": ["x", "x y z"]}
    generations = pd.DataFrame([{"prompt_id": p, "response": text} for p, both in texts.items() for text in both])
    rated, dropped = rate_by_rules(chosen, generations)
    by_source = PreferenceGroups.validate(rated).set_index("source")["ratings"]
    assert set(by_source.index) == {"train0", "test0"} and by_source["train0"][0] > by_source["train0"][1]
    assert list(dropped["reason"]) == ["equal_ratings"]


def test_an_empty_quarantine_is_still_a_table():
    assert QuarantinedRows.validate(quarantined_table([])).empty
