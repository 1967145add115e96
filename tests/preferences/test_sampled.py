"""The shipped prompts as prompt groups: which are sampled from, how samples are rated, which are evaluated on."""

import pandas as pd
import pytest

from rao_kedro.errors import DataError
from rao_kedro.models.chat import load_chat_format
from rao_kedro.preferences.sampled import evaluation_prompts, prompts_of_groups, prompts_to_sample, rate_by_rules
from rao_kedro.schemas.tables import EvaluationPrompts, PreferenceGroups


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


def generated(texts, finish_reason="stop"):
    """One row per response; `finish_reason` of them all, or a function of the text."""
    reason = finish_reason if callable(finish_reason) else lambda text: finish_reason
    rows = [
        {"prompt_id": prompt, "response": text, "finish_reason": reason(text)}
        for prompt, of_prompt in texts.items()
        for text in of_prompt
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
    rated, dropped = rate_by_rules(chosen, generated(texts))
    by_source = PreferenceGroups.validate(rated).set_index("source")["ratings"]
    assert set(by_source.index) == {"train0", "test0"} and by_source["train0"][0] > by_source["train0"][1]
    assert list(dropped["reason"]) == ["equal_ratings"]


def test_a_sample_that_hit_its_token_limit_is_not_finished(prompts):
    chosen = prompts_to_sample(prompts, 1, 1)
    texts = {"train0": ["one two", "", "one two three cut"], "test0": ["x cut", "x y z"]}
    rated, _ = rate_by_rules(chosen, generated(texts, lambda text: "length" if text.endswith("cut") else "stop"))
    by_source = PreferenceGroups.validate(rated).set_index("source")
    assert by_source.loc["train0", "responses"] == ["one two", "one two three cut"]
    assert by_source.loc["train0", "finished"] == [True, False]
    assert by_source.loc["test0", "finished"] == [False, True]


def test_evaluation_prompts_of_preference_data_fit_the_limit_and_the_template(tiny_checkpoint):
    chat = load_chat_format(tiny_checkpoint)
    refusal = "{% if 'bad' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
    chat.tokenizer.chat_template = refusal + chat.tokenizer.chat_template
    texts = ["train", "the " * 80, "one", "a bad one", "two", "three"]
    table = pd.DataFrame(
        {
            "group_id": [f"g{i}" for i in range(6)],
            "split": ["train"] + ["test"] * 5,
            "messages": [[{"role": "user", "content": text}] for text in texts],
            "requirements": "[]",
        }
    )
    found = EvaluationPrompts.validate(prompts_of_groups(table, 2, chat, 60))
    assert list(found["prompt_id"]) == ["g2", "g4"]
