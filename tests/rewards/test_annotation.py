"""Rewards joined to prompt groups: what is kept, what is quarantined, how it is normalised."""

import json

import numpy as np
import pandas as pd
import pytest
from data_tables import frame, temporary

from rao_kedro.data.tables import AnnotatedGroupTable, QuarantineTable
from rao_kedro.errors import DataError
from rao_kedro.rewards.annotation import QUANTILES, clip_bounds, join_rewards


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


def joined(scores, normalisation="none", clip=None, table=None):
    directory = temporary()
    paths = directory / "groups.parquet", directory / "scores.parquet"
    for path, frame_of in zip(paths, (groups() if table is None else table, scores), strict=True):
        frame_of.to_parquet(path)
    return tuple(map(frame, join_rewards(*paths, directory, normalisation, "best_vs_worst", seed=0, clip=clip)))


def annotated(*args, normalisation="none", clip=None, **kwargs):
    table, dropped = joined(scored(*args, **kwargs), normalisation, clip)
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
    assert clip_bounds(table) == pytest.approx((low, high))
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
