"""Rewards of sampled responses: on the scale of the data's rewards, and nothing is lost without a reason."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_tables import frame

from rao_kedro.data.arrow_schemas import REWARDS, TOKENIZED_GROUPS
from rao_kedro.data.quarantine import NoGroupsLeftError
from rao_kedro.data.tables import AnnotatedGroupTable, QuarantineTable, SampledGroupTable
from rao_kedro.rewards.annotation import QUANTILES, join_rewards
from rao_kedro.rewards.rounds import join_round


def group(name, split, k, rated=True):
    return {
        "group_id": name,
        "split": split,
        "messages": [{"role": "user", "content": "?"}],
        "responses": [f"{name}{i}" for i in range(k)],
        "requirements": "[]",
        "prompt_ids": [1, 2],
        "response_ids": [[i + 5, 2] for i in range(k)],
        "ratings": [float(-i) for i in range(k)] if rated else None,
        "finished": [True] * k,
        "chosen": 0,
        "rejected": 1,
        "earlier_turns": None,
        "learned": None,
    }


def write(path, rows, schema):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def scores(path, rewards, failures=None):
    rows = [
        {
            "group_id": name,
            "rewards": of_group,
            "truncated": [False] * len(of_group),
            "failures": [(failures or {}).get((name, i), "") for i in range(len(of_group))],
            "reward_model": "hash",
        }
        for name, of_group in rewards.items()
    ]
    return write(path, rows, REWARDS)


@pytest.fixture
def annotated(tmp_path):
    """The data's groups, standardised after clipping: what rounds must do, too."""
    groups = [group("a", "train", 3), group("b", "train", 2), group("v", "validation", 2), group("t", "test", 2)]
    given = scores(tmp_path / "given.parquet", {"a": [4.0, 0.0, 2.0], "b": [1.0, -1.0], "v": [1.0, 0.0], "t": [0, 3]})
    tokenized = write(tmp_path / "given_groups.parquet", groups, TOKENIZED_GROUPS)
    table, _ = join_rewards(tokenized, given, tmp_path, "standardise", "best_vs_worst", seed=0, clip=1.5)
    return table.rename(tmp_path / "annotated.parquet")


@pytest.fixture
def join(annotated, tmp_path):
    def joined(rewards, failures=None, offline=(), pairs=False):
        groups = [group(name, "train", len(of_group), rated=False) for name, of_group in rewards.items()]
        sampled = write(tmp_path / "sampled.parquet", groups, TOKENIZED_GROUPS)
        scored = scores(tmp_path / "scores.parquet", rewards, failures)
        paths = join_round(sampled, scored, annotated, offline, tmp_path, "best_vs_worst", 0, pairs)
        table, quarantined = map(frame, paths)
        return SampledGroupTable.validate(table).set_index("group_id"), QuarantineTable.validate(quarantined)

    return joined


def test_raw_rewards_are_transformed_as_those_of_the_data(annotated, join):
    """The same raw rewards become the same rewards, whichever table they are in."""
    table, _ = join({"a": [4.0, 0.0, 2.0], "x": [-1.0, 1.0, 50.0]}, offline=["b"])
    given = AnnotatedGroupTable.validate(frame(annotated)).set_index("group_id")
    assert [*table.loc["a", "rewards"]] == [*given.loc["a", "rewards"]]
    assert [*table.loc["x", "rewards"][:2]] == [*given.loc["b", "rewards"]][::-1]
    assert table.loc["x", "rewards"][2] == max(given.loc["a", "rewards"])  # clipped
    assert [*table.loc["x", "raw_rewards"]] == [-1.0, 1.0, 50.0]
    assert set(table["reward_transforms"]) == set(given["reward_transforms"])


def test_a_rounds_table_holds_sampled_groups_those_of_the_data_and_the_validation_groups(join):
    table, quarantined = join({"a": [4.0, 0.0, 2.0]}, offline=["b"])
    assert dict(table["split"]) == {"a": "train", "b": "train", "v": "validation"} and quarantined.empty
    every = np.concatenate([*table["rewards"]])
    assert table["reward_mean"].iloc[0] == pytest.approx(every.mean())
    assert [*table["reward_quantiles"].iloc[0]] == pytest.approx([*np.quantile(every, QUANTILES)])


def test_rewards_are_the_ratings_of_sampled_responses(join):
    table, _ = join({"a": [0.0, 4.0, 2.0]})
    row = table.loc["a"]
    assert [*row["ratings"]] == [*row["rewards"]] and (row["chosen"], row["rejected"]) == (1, 0)


def test_a_response_without_a_reward_is_quarantined_and_its_group_kept_while_two_are_left(join):
    failures = {("a", 0): "too long", ("x", 0): "refused", ("x", 1): "refused"}
    table, quarantined = join({"a": [0.0, 4.0, 2.0], "x": [0.0, 0.0, 1.0]}, failures)
    assert "x" not in table.index and [*table.loc["a", "responses"]] == ["a1", "a2"]
    assert [len(ids) for ids in table.loc["a", ["response_ids", "finished", "truncated"]]] == [2, 2, 2]
    assert sorted(quarantined["reason"]) == ["too_few_responses", *["unscored_response"] * 3]
    assert "1 of 3 responses got a reward, 2 are needed" in [*quarantined["detail"]]


def test_equal_rewards_are_no_preference_and_still_a_group(join):
    table, quarantined = join({"a": [1.0, 1.0], "x": [1.0, 0.0]}, pairs=True)
    assert "a" not in table.index and [*quarantined["reason"]] == ["equal_ratings"]
    table, quarantined = join({"a": [1.0, 1.0], "x": [1.0, 0.0]}, pairs=False)
    assert (table.loc["a", "chosen"], table.loc["a", "rejected"]) == (0, 1) and quarantined.empty


def test_a_round_in_which_nothing_is_left_ends_with_the_reasons(join):
    with pytest.raises(NoGroupsLeftError, match=r"no group of the round is left to train on; .*equal_ratings"):
        join({"a": [1.0, 1.0]}, pairs=True)
