"""Three parts that share no prompt: what is trained on, what training evaluates on, what is reported."""

from collections import defaultdict
from pathlib import Path

import pytest

from rao_kedro.data.digests import digest
from rao_kedro.data.quarantine import ReasonCounts, UnusableRow
from rao_kedro.data.splits import HeldOutSplits, require_every_part
from rao_kedro.errors import DataError


def groups(*prompts, split="test"):
    """The split and the prompt of each group, which is a letter."""
    return [(split, digest(prompt)) for prompt in prompts]


def parts(found, n):
    """The letters of the prompts in each split."""
    letters = {digest(letter): letter for letter in "abcd"}
    splits, result = HeldOutSplits(lambda: found, n), defaultdict(str)
    for split, prompt in found:
        result[splits.split_of(split, prompt)] += letters[prompt]
    return result


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, {"test": "aa", "validation": "bcdb"}),
        (2, {"test": "abab", "validation": "cd"}),
        (9, {"test": "abab", "validation": "cd"}),  # half of four prompts at most
        (None, {"test": "abcadb"}),
    ],
)
def test_the_first_held_out_prompts_are_reported_and_all_groups_of_a_prompt_go_together(n, expected):
    assert parts(groups(*"abcadb"), n) == expected


def test_a_validation_group_of_a_test_prompt_is_refused():
    found = [*groups("a", "b"), *groups("c", "b", split="validation")]
    assert parts(found[:3], None) == {"test": "ab", "validation": "c"}
    with pytest.raises(UnusableRow, match="test_prompt_in_validation"):
        parts(found, None)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("preferences", r"test: give more held-out rows \(data\.preferences\.test\.max_rows\)"),
        ("sampled", "raise data.sa"),
    ],
)
def test_an_empty_part_is_an_error_that_says_what_to_do(source, remedy):
    assert parts(groups("a"), 5) == {"validation": "a"}  # one prompt: nothing to divide
    reasons = ReasonCounts([{"source": "s", "reason": "too_long", "detail": "", "row": ""}])
    with pytest.raises(DataError, match=rf"no prompt group is left for test\. .*{remedy}.*too_long 1 times"):
        require_every_part({"train": 1, "validation": 1}, source, reasons, Path("quarantined"))
