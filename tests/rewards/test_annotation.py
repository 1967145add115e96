"""Rewards joined to prompt groups: what is kept, what is quarantined, how it is normalised."""

import json

import numpy as np
import pandas as pd
import pytest
from data_tables import frame, temporary
from pandera.errors import SchemaError

from rao_kedro.data.mapped_tables import map_table
from rao_kedro.data.tables import AnnotatedGroupTable, QuarantineTable
from rao_kedro.errors import DataError
from rao_kedro.rewards import annotation
from rao_kedro.rewards.annotation import QUANTILES, join_rewards, read_rewards, recorded_transforms
from rao_kedro.rewards.transforms import apply_transforms


def groups():
    rows = [
        {"group_id": "a", "split": "train", "ratings": [1.0, 0.0, 0.5], "chosen": 0, "rejected": 2},
        {"group_id": "b", "split": "test", "ratings": [1.0, 0.0], "chosen": 0, "rejected": 1},
    ]
    for row in rows:
        k = len(row["ratings"])
        row |= {
            "messages": [{"role": "user", "content": "?"}],
            "responses": [f"{row['group_id']}{i}" for i in range(k)],
            "requirements": "[]",
            "prompt_ids": [1, 2],
            "response_ids": [[i + 5] for i in range(k)],
            "finished": [i % 2 == 0 for i in range(k)],
            "earlier_turns": [[{"role": "assistant", "content": f"{i}?"}] for i in range(k)] if k == 3 else None,
            "learned": [[bool(i)] for i in range(k)] if k == 3 else None,
        }
    return pd.DataFrame(rows)


def scored(first=(2.0, -1.0, 0.5), second=(-3.0, 1.0), failures=None):
    rows = [
        {"group_id": name, "rewards": list(rewards), "truncated": [False] * len(rewards)}
        for name, rewards in (("a", first), ("b", second))
    ]
    table = pd.DataFrame(rows).assign(reward_model="hash")
    table["failures"] = [[(failures or {}).get((r["group_id"], i), "") for i in range(len(r["rewards"]))] for r in rows]
    return table


def write(scores, table=None):
    """The arguments of `join_rewards` that are paths."""
    directory = temporary()
    paths = directory / "groups.parquet", directory / "scores.parquet"
    for path, frame_of in zip(paths, (groups() if table is None else table, scores), strict=True):
        frame_of.to_parquet(path)
    return *paths, directory


def joined(scores, normalisation="none", table=None, **transforms):
    paths = write(scores, table)
    return tuple(map(frame, join_rewards(*paths, normalisation, "best_vs_worst", seed=0, **transforms)))


def annotated(first=(2.0, -1.0, 0.5), second=(-3.0, 1.0), failures=None, **transforms):
    table, dropped = joined(scored(first, second, failures), **transforms)
    return AnnotatedGroupTable.validate(table), QuarantineTable.validate(dropped)


def test_rewards_are_joined_by_group_with_their_statistics():
    table, dropped = annotated()
    values = [2.0, -1.0, 0.5, -3.0, 1.0]
    assert list(table["rewards"]) == list(table["raw_rewards"]) == [values[:3], values[3:]]
    assert table["reward_mean"].iloc[0] == pytest.approx(-0.1)
    assert table["reward_std"].iloc[0] == pytest.approx(np.std(values))
    assert table["reward_quantiles"].iloc[0] == pytest.approx(list(np.quantile(values, QUANTILES)))
    assert dropped.empty and set(table["reward_transforms"]) == {"[]"}


def test_standardised_rewards_have_mean_0_and_standard_deviation_1_over_the_training_split_beside_the_raw_ones():
    """Rewards 1, 0, 0.5 of the training group: mean 0.5, standard deviation sqrt(1/6)."""
    table, _ = annotated((1.0, 0.0, 0.5), (1.0, 0.0), normalisation="standardise")
    scale = 6**0.5
    assert table["rewards"][0] == pytest.approx([0.5 * scale, -0.5 * scale, 0.0])
    assert table["rewards"][1] == pytest.approx([0.5 * scale, -0.5 * scale])  # held out, on the same scale
    assert table["raw_rewards"][1] == [1.0, 0.0]


def test_clipped_rewards_stay_within_robust_standard_deviations_of_the_training_median_and_this_is_recorded():
    """Training rewards 0, 1, 1000: median 1; deviations 1, 0, 999, so 1.4826, but the quartiles .5 and 500.5: 370.6."""
    spread = 500 / 1.349
    table, _ = annotated((0.0, 1.0, 1000.0), (5.0, -9000.0), clip=2.0)
    low, high = 1 - 2 * spread, 1 + 2 * spread
    assert table["rewards"][0] == pytest.approx([0.0, 1.0, high]) and table["raw_rewards"][0] == [0.0, 1.0, 1000.0]
    assert table["rewards"][1] == pytest.approx([5.0, low])
    [step] = recorded_transforms(table)
    assert (step["low"], step["high"]) == pytest.approx((low, high))
    # Standardised are the clipped ones; what both did can be undone for rewards within the bounds.
    table, _ = annotated((0.0, 1.0, 1000.0), (5.0, -9000.0), clip=2.0, normalisation="standardise")
    assert np.mean(table["rewards"][0]) == pytest.approx(0) and np.std(table["rewards"][0]) == pytest.approx(1)
    clip, standardise = json.loads(table["reward_transforms"][0])
    assert (clip["name"], standardise["name"]) == ("clip", "standardise")
    assert table["rewards"][1][0] * standardise["std"] + standardise["mean"] == pytest.approx(5.0)


def test_a_response_without_a_reward_is_quarantined_and_its_group_gets_another_pair():
    table, dropped = annotated((np.nan, 2.0, 3.0), failures={("a", 0): "no parsable score"})
    assert list(dropped["source"]) == ["a"] and list(dropped["reason"]) == ["unscored_response"]
    assert dropped["detail"][0] == "no parsable score" and "a0" in dropped["row"][0]
    row = table.iloc[0]
    assert row["responses"] == ["a1", "a2"] and row["response_ids"] == [[6], [7]] and row["rewards"] == [2.0, 3.0]
    assert (row["ratings"], row["chosen"], row["rejected"]) == ([0.0, 0.5], 1, 0)
    assert [turns[0]["content"] for turns in row["earlier_turns"]] == ["1?", "2?"]
    assert row["learned"] == [[True], [True]]


def test_a_group_without_a_preference_left_is_dropped_and_none_left_is_an_error():
    failures = {("b", 0): "no score"}
    table, dropped = annotated(second=(np.nan, 1.0), failures=failures)
    assert list(table["group_id"]) == ["a"] and len(dropped) == 1
    failures |= {("a", i): "no score" for i in range(3)}
    with pytest.raises(DataError, match="no training group is left: 4 responses got no reward, for example: no score"):
        annotated((np.nan,) * 3, (np.nan, 1.0), failures=failures)


def test_a_group_without_rewards_and_rewards_without_spread_are_refused():
    with pytest.raises(DataError, match="1 groups have no rewards, for example b"):
        joined(scored().query("group_id == 'a'"))
    with pytest.raises(DataError, match="in another order: annotate the responses again"):
        joined(scored()[::-1])
    with pytest.raises(DataError, match=r"all 5 rewards are 1\.0"):
        annotated((1.0, 1.0, 1.0), (1.0, 1.0))


def test_a_length_penalty_is_subtracted_per_token_that_the_assistant_writes_before_all_else():
    """Responses of 1, 2 and 3 tokens, of which the first is the user's where masks say so: 1, 2 and 3 less 1."""
    table = groups()
    for i, of_row in enumerate(table["response_ids"]):
        table.at[i, "response_ids"] = [ids * (j + 1) for j, ids in enumerate(of_row)]
    table.at[0, "learned"] = [[True], [False, True], [False, True, True]]
    found, _ = joined(scored(), table=table, length_penalty=0.5)
    assert list(found["rewards"]) == [[2.0 - 0.5, -1.0 - 0.5, 0.5 - 1.0], [-3.0 - 0.5, 1.0 - 1.0]]
    assert list(found["raw_rewards"]) == [[2.0, -1.0, 0.5], [-3.0, 1.0]]
    assert recorded_transforms(found) == [{"name": "length_penalty", "per_token": 0.5}]
    found, _ = joined(scored(), table=table, length_penalty=0.5, normalisation="standardise")
    assert np.mean(found["rewards"][0]) == pytest.approx(0) and np.std(found["rewards"][0]) == pytest.approx(1)


def test_quantiles_are_shares_of_the_training_rewards_or_of_those_of_the_prompt_a_tie_counting_one_half():
    table, _ = annotated((2.0, -1.0, 2.0), (-3.0, 0.5), normalisation="quantile")
    assert table["rewards"][0] == pytest.approx([2 / 3, 1 / 6, 2 / 3])
    assert table["rewards"][1] == pytest.approx([1 / 6, 5 / 12])  # held out: below all, and half-way between
    table, _ = annotated((2.0, -1.0, 2.0), (-3.0, 0.5), normalisation="quantile_per_prompt")
    assert table["rewards"][0] == pytest.approx([2 / 3, 1 / 6, 2 / 3]) and table["rewards"][1] == [0.25, 0.75]
    assert set(table["reward_transforms"]) == {'[{"name": "quantile_per_prompt"}]'}


def test_responses_without_a_reward_count_in_no_quantile():
    failures = {("a", 0): "no score", ("b", 0): "no score"}
    for normalisation in ("quantile", "quantile_per_prompt"):
        table, dropped = annotated((np.nan, 2.0, 3.0), (np.nan, 1.0), failures, normalisation=normalisation)
        assert len(dropped) == 2 and list(table["rewards"]) == [[0.25, 0.75]]


TRANSFORMS = [
    {"normalisation": normalisation, "clip": clip, "length_penalty": penalty}
    for normalisation in ("none", "standardise", "quantile", "quantile_per_prompt")
    for clip in (None, 1.0)
    for penalty in (0.0, 0.25)
]


@pytest.mark.parametrize("transforms", TRANSFORMS, ids=lambda of: "-".join(map(str, of.values())))
def test_what_is_recorded_makes_the_rewards_of_the_table_from_its_raw_ones(transforms, tmp_path):
    table, _ = annotated((2.0, -1.0, 40.0), (-3.0, 1.0), **transforms)
    table.to_parquet(tmp_path / "annotated.parquet")
    read = read_rewards(tmp_path / "annotated.parquet")
    assert "reward_transforms" not in map_table(tmp_path / "annotated.parquet").column_names  # kilobytes in every row
    found = apply_transforms(recorded_transforms(read), list(read["raw_rewards"]), list(read["response_lengths"]))
    for of_group, expected in zip(found, table["rewards"], strict=True):
        assert of_group.tolist() == expected


def test_a_killed_annotation_leaves_no_table_and_the_next_one_writes_the_same_bytes(monkeypatch):
    paths, options = write(scored()), ("quantile", "best_vs_worst", 0, 3.0, 0.1)
    first = [path.read_bytes() for path in join_rewards(*paths, *options)]
    paths = write(scored())
    with monkeypatch.context() as patch:
        patch.setattr(annotation._Statistics, "add_to", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            join_rewards(*paths, *options)
    assert not (paths[-1] / "reward_annotated.parquet").exists()
    assert [path.read_bytes() for path in join_rewards(*paths, *options)] == first


def test_training_rewards_that_are_equal_have_neither_a_scale_nor_quantiles():
    for normalisation in ("standardise", "quantile"):
        with pytest.raises(
            DataError, match=f"all 3 training rewards are 1: reward_modeling.normalisation {normalisation}"
        ):
            annotated((1.0, 1.0, 1.0), (0.0, 2.0), normalisation=normalisation)
    table, _ = annotated((1.0, 1.0, 1.0), (0.0, 2.0), normalisation="quantile_per_prompt")
    assert table["rewards"][0] == [0.5, 0.5, 0.5]


def test_an_infinite_reward_is_refused_also_where_its_quantile_is_finite():
    with pytest.raises(SchemaError, match="rewards are finite numbers"):
        annotated((1.0, np.inf, 0.0), (0.0, 2.0), normalisation="quantile")
