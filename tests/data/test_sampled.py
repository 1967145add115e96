"""The shipped prompts as prompt groups: which are sampled from, how samples are rated, which are evaluated on."""

import pandas as pd
import pytest
from data_tables import frame, temporary

from rao_kedro.config.data_engineering import SampledResponses
from rao_kedro.data.sampled import divide_prompts, rate_by_rules
from rao_kedro.data.tables import EvaluationPromptTable, PreferenceGroupTable
from rao_kedro.errors import DataError
from rao_kedro.models.chat_format import load_chat_format


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


END = 2


def generated(texts, finished=lambda text: True):
    """One row per response; `finished` says of a text whether the model ended it."""
    rows = [
        {"prompt_id": prompt, "response": text, "response_ids": [5, *[END] * finished(text)]}
        for prompt, of_prompt in texts.items()
        for text in of_prompt
    ]
    return pd.DataFrame(rows)


def rated_by_rules(chosen, generations):
    directory = temporary()
    generations.to_parquet(directory / "generations.parquet")
    return tuple(map(frame, rate_by_rules(chosen, directory / "generations.parquet", {END}, directory)))


@pytest.fixture
def chat(tiny_checkpoint):
    return load_chat_format(tiny_checkpoint)


def divided(prompts, chat, train, validation, test, evaluation):
    how = {"backend": "transformers", "sampling": {"max_tokens": 1}}
    counts = {"train_prompts": train, "validation_prompts": validation, "test_prompts": test, "generation": how}
    return divide_prompts(prompts, SampledResponses(**counts), evaluation, chat)


def test_responses_are_sampled_for_training_for_validation_and_for_the_first_evaluation_prompts(prompts, chat):
    found = divided(prompts, chat, train=3, validation=1, test=2, evaluation=3)
    assert list(EvaluationPromptTable.validate(found.evaluation)["prompt_id"]) == ["test1", "test2", "test3"]
    of = found.to_sample.groupby("split")["prompt_id"].agg(list).to_dict()
    assert of == {"train": ["train0", "train1", "train2"], "validation": ["test0"], "test": ["test1", "test2"]}
    with pytest.raises(DataError, match="split train has 4 prompts, and 5 are needed"):
        divided(prompts, chat, train=5, validation=1, test=1, evaluation=1)


def test_two_prompts_of_the_same_tokens_are_refused(prompts, chat):
    prompts.at[6, "messages"] = prompts.at[1, "messages"]
    with pytest.raises(DataError, match="train1 and test2 are the same prompt, token by token: remove one"):
        divided(prompts, chat, train=1, validation=1, test=1, evaluation=1)


def test_samples_are_rated_by_the_rules_and_ties_quarantined(prompts, chat):
    chosen = divided(prompts, chat, train=2, validation=1, test=1, evaluation=1).to_sample
    texts = {"train0": ["one two", "one two three"], "train1": ["a b", "c d"]}
    texts |= {name: ["x", "x y z"] for name in ("test0", "test1")}
    rated, dropped = rated_by_rules(chosen, generated(texts))
    by_source = PreferenceGroupTable.validate(rated).set_index("source")["ratings"]
    assert set(by_source.index) == {"train0", "test0", "test1"} and by_source["train0"][0] > by_source["train0"][1]
    assert list(dropped["reason"]) == ["equal_ratings"]


def test_a_sample_that_its_token_limit_or_a_stop_text_ended_is_not_finished(prompts, chat):
    chosen = divided(prompts, chat, train=1, validation=1, test=1, evaluation=1).to_sample
    texts = {"train0": ["one two", "", "one two three cut"], "test0": ["x cut", "x y z"], "test1": ["x", "x y z"]}
    rated, _ = rated_by_rules(chosen, generated(texts, lambda text: not text.endswith("cut")))
    by_source = PreferenceGroupTable.validate(rated).set_index("source")
    assert by_source.loc["train0", "responses"] == ["one two", "one two three cut"]
    assert by_source.loc["train0", "finished"] == [True, False]
    assert by_source.loc["test0", "finished"] == [False, True]
