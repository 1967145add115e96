"""Groups as token ids: limits, t_0, the pair, and the report; and the shipped prompts as groups."""

import random

import pandas as pd
import pytest

from rao_kedro.errors import DataError
from rao_kedro.models.chat import load_tokenizer
from rao_kedro.preferences.quarantine import quarantined_table
from rao_kedro.preferences.report import data_report
from rao_kedro.preferences.sampled import divide_prompts, rate_by_rules
from rao_kedro.preferences.splits import divide_held_out, prompts_of_groups
from rao_kedro.preferences.tokenize import TokenLimits, choose_pair, tokenize_groups
from rao_kedro.schemas.parameters import SampledResponses
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
    with pytest.raises(DataError, match=r"no prompt group is left.*'prompt_too_long': 1"):
        tokenize_groups(groups("the " * 80), tokenizer, LIMITS, "best_vs_random", seed=0)


def test_the_pair_is_the_best_and_a_worse_one():
    ratings = [0.5, 1.0, 0.0, 1.0]
    found = {choose_pair(ratings, "best_vs_random", random.Random(seed)) for seed in range(20)}
    assert found == {(1, 0), (1, 2)}
    assert choose_pair(ratings, "best_vs_worst", random.Random(0)) == (1, 2)
    with pytest.raises(DataError, match="no rejected response"):
        choose_pair([1.0, 1.0], "best_vs_worst", random.Random(0))


def test_the_report_counts_every_row_and_part_and_spells_t0(tokenizer):
    table = pd.concat([groups("one", "the " * 80), groups("two", "three", "four", split="test")])
    tokenized, dropped = tokenize_groups(table, tokenizer, LIMITS, "best_vs_random", seed=0)
    tokenized = divide_held_out(tokenized, 10)
    prompts = prompts_of_groups(tokenized, 10)
    report = data_report(table, dropped, tokenized, prompts, tokenizer, t0_length=1)
    report = report.set_index(["section", "metric"])["value"]
    assert report["read", "train groups"] == "2" and report["train groups", "tokenised"] == "1"
    assert report["read", "held-out groups"] == "3"
    assert (report["test groups", "prompts"], report["validation groups", "prompts"]) == ("1", "2")
    assert report["evaluation", "prompts"] == "1"
    assert report["quarantined", "prompt_too_long"] == report["quarantined", "all"] == "1"
    assert report["t_0", "text in use"] == "'<|im_start|>'"
    assert report["t_0", "text that all prompts share"].startswith("'<|im_start|>user")


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


def divided(prompts, tokenizer, train, validation, test, evaluation):
    how = {"backend": "transformers", "sampling": {"max_tokens": 1}}
    counts = {"train_prompts": train, "validation_prompts": validation, "test_prompts": test, "generation": how}
    return divide_prompts(prompts, SampledResponses(**counts), evaluation, tokenizer)


def test_responses_are_sampled_for_training_for_validation_and_for_the_first_evaluation_prompts(prompts, tokenizer):
    found = divided(prompts, tokenizer, train=3, validation=1, test=2, evaluation=3)
    assert list(EvaluationPrompts.validate(found.evaluation)["prompt_id"]) == ["test1", "test2", "test3"]
    of = found.to_sample.groupby("split")["prompt_id"].agg(list).to_dict()
    assert of == {"train": ["train0", "train1", "train2"], "validation": ["test0"], "test": ["test1", "test2"]}
    with pytest.raises(DataError, match="5 of split train are asked for, 4 are there"):
        divided(prompts, tokenizer, train=5, validation=1, test=1, evaluation=1)


def test_two_prompts_of_the_same_tokens_are_refused(prompts, tokenizer):
    prompts.at[6, "messages"] = prompts.at[1, "messages"]
    with pytest.raises(DataError, match="train1 and test2 are the same prompt, token by token: remove one"):
        divided(prompts, tokenizer, train=1, validation=1, test=1, evaluation=1)


def test_samples_are_rated_by_the_rules_and_ties_quarantined(prompts, tokenizer):
    chosen = divided(prompts, tokenizer, train=2, validation=1, test=1, evaluation=1).to_sample
    texts = {"train0": ["one two", "one two three"], "train1": ["a b", "c d"]}
    texts |= {name: ["x", "x y z"] for name in ("test0", "test1")}
    generations = pd.DataFrame([{"prompt_id": p, "response": text} for p, both in texts.items() for text in both])
    rated, dropped = rate_by_rules(chosen, generations)
    by_source = PreferenceGroups.validate(rated).set_index("source")["ratings"]
    assert set(by_source.index) == {"train0", "test0", "test1"} and by_source["train0"][0] > by_source["train0"][1]
    assert list(dropped["reason"]) == ["equal_ratings"]


def test_an_empty_quarantine_is_still_a_table():
    assert QuarantinedRows.validate(quarantined_table([])).empty
