"""Three parts that share no prompt: what is trained on, what training evaluates on, what is reported."""

import pandas as pd
import pytest

from rao_kedro.data.quarantine import quarantined_table
from rao_kedro.data.splits import (
    divide_held_out,
    prompts_of_groups,
    quarantine_reported_prompts,
    require_every_part,
)
from rao_kedro.data.tables import EvaluationPromptTable, QuarantineTable
from rao_kedro.errors import DataError


def groups(*prompts, split="test"):
    """A group per prompt, which is a text of tokens."""
    rows = [
        {
            "group_id": f"{split}{i}",
            "split": split,
            "prompt_ids": list(prompt.encode()),
            "messages": [{"role": "user", "content": prompt}],
            "responses": ["a", "b"],
            "requirements": "[]",
        }
        for i, prompt in enumerate(prompts)
    ]
    return pd.DataFrame(rows)


def parts(table):
    return {part: "".join(bytes(ids).decode() for ids in rows["prompt_ids"]) for part, rows in table.groupby("split")}


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, {"train": "x", "test": "aa", "validation": "bcdb"}),
        (2, {"train": "x", "test": "abab", "validation": "cd"}),
        (9, {"train": "x", "test": "abab", "validation": "cd"}),  # half of four prompts at most
    ],
)
def test_the_first_held_out_prompts_are_reported_and_all_groups_of_a_prompt_go_together(n, expected):
    table = pd.concat([groups("x", split="train"), groups("a", "b", "c", "a", "d", "b")], ignore_index=True)
    assert parts(divide_held_out(table, n)) == expected


def test_evaluation_prompts_are_the_test_prompts_each_once():
    divided = divide_held_out(groups("a", "b", "c", "a", "d", "b"), 2)
    found = EvaluationPromptTable.validate(prompts_of_groups(divided, 2))
    assert list(found["prompt_id"]) == ["test0", "test1"]
    assert list(prompts_of_groups(divided, 1)["prompt_id"]) == ["test0"]


def test_a_validation_group_of_a_test_prompt_is_quarantined():
    table = pd.concat([groups("a", "b"), groups("c", "b", split="validation")], ignore_index=True)
    kept, dropped = quarantine_reported_prompts(table, {"validation1": "file:2"})
    assert parts(kept) == {"test": "ab", "validation": "c"}
    assert list(QuarantineTable.validate(dropped)["reason"]) == ["test_prompt_in_validation"]
    assert dropped["source"][0] == "file:2"


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("preferences", r"test: give more held-out rows \(data\.preferences\.test\.max_rows\)"),
        ("sampled", "raise data.sa"),
    ],
)
def test_an_empty_part_is_an_error_that_says_what_to_do(source, remedy):
    table = pd.concat([groups("x", split="train"), groups("a")], ignore_index=True)  # one prompt: nothing to divide
    dropped = quarantined_table([{"source": "s", "reason": "too_long", "detail": "", "row": ""}])
    with pytest.raises(DataError, match=rf"no prompt group is left for test\. .*{remedy}.*too_long 1 times"):
        require_every_part(divide_held_out(table, 5), source, dropped)
