"""The prompts that the project ships."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from rao_kedro.data.requirements import score_response, words
from rao_kedro.data.tables import PromptTable

PATH = Path(__file__).parents[2] / "data/01_raw/prompts.jsonl"


@pytest.fixture(scope="module")
def prompts():
    return [json.loads(line) for line in PATH.read_text().splitlines()]


def test_the_file_is_a_valid_table_of_several_hundred_different_short_prompts(prompts):
    PromptTable.validate(pd.DataFrame(prompts))
    texts = [prompt["messages"][0]["content"] for prompt in prompts]
    assert len(texts) > 300 and len(set(texts)) == len(texts)
    assert max(len(words(text)) for text in texts) <= 45


def test_no_template_is_in_both_splits(prompts):
    templates = {split: {p["template"] for p in prompts if p["split"] == split} for split in ("train", "test")}
    assert not templates["train"] & templates["test"]
    assert min(map(len, templates.values())) >= 20


def test_all_requirements_can_be_scored_and_the_kinds_of_the_held_out_ones_are_trained(prompts):
    for prompt in prompts:
        assert 0 <= score_response("Some text.", prompt["requirements"]) <= 1
    kinds = {
        split: {r["check"] for p in prompts if p["split"] == split for r in p["requirements"]}
        for split in ("train", "test")
    }
    assert kinds["test"] <= kinds["train"]


def test_the_first_prompts_of_a_split_are_balanced_over_its_templates(prompts):
    for split in ("train", "test"):
        templates = [prompt["template"] for prompt in prompts if prompt["split"] == split]
        counts = Counter(templates[: len(templates) // 2])
        assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) == len(set(templates))
