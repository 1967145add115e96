"""What rewards can be trusted for, by hand arithmetic."""

import json

import numpy as np
import pandas as pd
import pytest

from rao_kedro.rewards.reliability import accuracy_by_gap, calibration_report, target_grid


def group(name, split, rewards, ratings, lengths):
    return {
        "group_id": name,
        "split": split,
        "rewards": rewards,
        "ratings": ratings,
        "response_lengths": lengths,
        "chosen": int(np.argmax(ratings)),
        "rejected": int(np.argmin(ratings)),
        "truncated": [False] * len(rewards),
        "raw_rewards": rewards,
        "reward_transforms": "[]",
    }


def table():
    """Of the first group all three pairs are right, the second's only one is wrong; the third, held out, is a tie."""
    rows = [
        group("a", "train", [3.0, 1.0, -1.0], [1.0, 0.5, 0.0], [5, 3, 9]),
        group("b", "train", [-2.0, 4.0], [1.0, 0.0], [2, 6]),
        group("c", "test", [1.0, 1.0], [1.0, 0.0], [4, 4]),
    ]
    return pd.DataFrame(rows)


def report(**rao):
    return calibration_report(table(), rao).set_index(["split", "metric"])


def test_accuracy_stands_beside_that_of_preferring_the_longer_response():
    found = report()["value"]
    assert found["train", "pair_accuracy"] == pytest.approx((1 + 0) / 2)
    assert found["train", "length_only_accuracy"] == pytest.approx((1 / 3 + 0) / 2)  # of a, 5 > 3 only; of b, none
    assert found["test", "pair_accuracy"] == found["test", "length_only_accuracy"] == 0.5
    assert found["test", "tied_pairs"] == 1.0 and found["train", "tied_pairs"] == 0.0
    assert found["train", "chosen_minus_rejected"] == pytest.approx((4.0 - 6.0) / 2)


def test_length_correlations_are_means_over_the_groups_that_have_one():
    """Ranks of a: rewards 3 2 1, lengths 2 1 3: -0.5, the ratings alike; of b: rewards +1, ratings -1; of c none."""
    found = report()
    assert found.loc[("train", "length_correlation"), "value"] == pytest.approx((-0.5 + 1) / 2)
    assert found.loc[("train", "rating_length_correlation"), "value"] == pytest.approx((-0.5 - 1) / 2)
    assert found.loc[("train", "length_correlation"), "n"] == 2
    assert np.isnan(found.loc[("test", "length_correlation"), "value"])
    assert found.loc[("test", "length_correlation"), "n"] == 0


def test_the_distribution_and_its_saturation():
    found = report()["value"]
    rewards = [3.0, 1.0, -1.0, -2.0, 4.0]
    assert found["train", "reward_mean"] == pytest.approx(1.0)
    assert found["train", "reward_std"] == pytest.approx(np.std(rewards))
    assert found["train", "reward_quantile_0.25"] == -1.0 and found["train", "reward_quantile_1"] == 4.0
    assert found["train", "saturation"] == pytest.approx(2 / 5)  # both ends
    assert found["test", "saturation"] == 0.0  # 1 and 1, between -2 and 4


@pytest.mark.parametrize(
    ("rao", "share"),
    [
        ({"beta": 0.1, "log_z0": "auto"}, 0.5),  # the threshold is the mean of group means, (1 + 1) / 2; 3 and -2
        ({"beta": 0.1, "log_z0": -30.0}, 1.0),  # -3
        ({"log_z0": 29.0}, 0.5),  # RAO's own beta, 0.1: 2.9
        ({}, 0.0),  # RAO's own log_z0, 50: 5
    ],
)
def test_the_share_of_chosen_responses_that_this_rao_run_raises(rao, share):
    found = report(**rao)["value"]
    assert found["train", "chosen_target_is_up"] == share
    assert found["train", "suggested_log_z0"] == pytest.approx(10.0)  # 1 / 0.1


def test_pairs_are_binned_by_the_size_of_their_gap():
    found = accuracy_by_gap(table(), bins=2).set_index("split")
    train = found.loc["train"]  # gaps 2, 2, 4 of the first group right, and 6 of the second wrong
    assert list(train["gap_mean"]) == [2.0, 5.0] and list(train["accuracy"]) == [1.0, 0.5]
    assert list(train["gap_low"]) == [2.0, 4.0] and list(train["gap_high"]) == [2.0, 6.0]
    assert found.loc["test", "accuracy"] == 0.5 and found.loc["test", "n"] == 1


def test_pairs_of_one_group_are_one_unit_of_the_interval():
    """Of 10 pairs of each group all are right or all wrong: 20 pairs say no more than 2 groups."""
    two = pd.DataFrame(
        [
            group("a", "train", [5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0], [2] * 5),
            group("b", "train", [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0], [2] * 5),
        ]
    )
    row = accuracy_by_gap(two, bins=1).loc[0]
    assert (row["accuracy"], row["n"]) == (0.5, 2)
    assert row["low"] < 0.05 and row["high"] > 0.95


def test_the_grid_says_where_other_parameters_would_aim():
    grid = target_grid(table(), betas=[0.5], log_z0s=[0.0, 10.0])
    assert list(grid["log_z0"]) == pytest.approx([2.0, 0.0, 10.0]) and list(grid["suggested"]) == [True, False, False]
    assert list(grid["chosen_target_is_up"]) == [0.5, 0.5, 0.0]
    assert list(grid["target_chosen"]) == pytest.approx([0.5 / 0.5 - 2, 1, -9])
    assert list(grid["target_rejected"]) == pytest.approx([1.5 / 0.5 - 2, 3, -7])
    margin = target_grid(table(), betas=[0.5], log_z0s=[], rao={"log_z0": "auto", "margin": 3.0})
    assert margin["log_z0"].tolist() == pytest.approx([2.0 - 3.0])


@pytest.mark.parametrize(
    ("reduction", "responses", "mean"),
    [("prompt_mean", None, (0 + 1) / 2), ("flat", None, 2 / 5), ("prompt_mean", 2, (-0.5 + 1) / 2), ("flat", 2, 1 / 4)],
)
def test_auto_is_solved_for_the_reduction_and_the_responses_of_the_run(reduction, responses, mean):
    """Group a has rewards 3, 1 and -4, of which two are the chosen 3 and the rejected -4; group b has -2 and 4."""
    skewed = pd.DataFrame(
        [
            group("a", "train", [3.0, 1.0, -4.0], [1.0, 0.5, 0.0], [5, 3, 9]),
            group("b", "train", [-2.0, 4.0], [1.0, 0.0], [2, 6]),
        ]
    )
    rao = {"beta": 0.5, "log_z0": "auto", "reduction": reduction, "margin": 1.0}
    found = calibration_report(skewed, rao, responses=responses).set_index("metric")["value"]
    assert found["suggested_log_z0"] == pytest.approx(mean / 0.5 - 1)
    grid = target_grid(skewed, [0.5], [], rao, responses)
    assert grid["log_z0"].tolist() == pytest.approx([mean / 0.5 - 1])


def test_outliers_and_clipped_rewards_are_counted_per_split():
    rows = [group(f"g{i}", "train", [float(i % 5), -1.0], [1.0, 0.0], [2, 3]) for i in range(20)]
    rows.append(group("far", "test", [900.0, 1.0], [1.0, 0.0], [2, 3]))
    plain = calibration_report(pd.DataFrame(rows), {}).set_index(["split", "metric"])["value"]
    assert plain["train", "outliers"] == 0 and plain["test", "outliers"] == 0.5
    assert "clipped" not in plain["train"]
    clipped = pd.DataFrame(rows).assign(reward_transforms='[{"name": "clip", "low": -9.0, "high": 3.5}]')
    found = calibration_report(clipped, {}).set_index(["split", "metric"])["value"]
    assert found["train", "clipped"] == pytest.approx(4 / 40) and found["test", "clipped"] == 0.5


def test_the_effect_of_each_transform_is_reported():
    """Raw rewards 3, 1 and 0, 2 of 2, 1 and 1, 3 tokens: less 1 a token 1, 0 and -1, -1, of which -0.5 clips two."""
    steps = [{"name": "length_penalty", "per_token": 1.0}, {"name": "clip", "low": -0.5, "high": 9.0}]
    rows = [
        group("a", "train", [1.0, 0.0], [1.0, 0.0], [2, 1]) | {"raw_rewards": [3.0, 1.0]},
        group("b", "train", [-0.5, -0.5], [1.0, 0.0], [1, 3]) | {"raw_rewards": [0.0, 2.0]},
    ]
    table = pd.DataFrame(rows).assign(reward_transforms=json.dumps(steps))
    found = calibration_report(table, {"beta": 0.1, "log_z0": 4.0}).set_index(["split", "metric"]).loc["train"]
    value = found["value"]
    assert (value["raw_reward_mean"], value["after_length_penalty_mean"]) == (1.5, -0.25)
    assert value["after_clip_mean"] == value["reward_mean"] == 0.0
    assert value["after_length_penalty_std"] == pytest.approx(np.std([1, 0, -1, -1]))
    assert value["clipped"] == 0.5 and value["order_changed"] == 0.5 and found.loc["order_changed", "n"] == 2
    assert value["raw_length_correlation"] == 1.0 and value["length_correlation"] == 1.0  # of b, none is left
    # A response of the median length, 1.5 tokens, has a target above 0 if it is above 0.1 * 4 after the penalty.
    assert value["raw_reward_at_zero_target"] == pytest.approx(0.4 + 1.5)
    per_prompt = table.assign(reward_transforms='[{"name": "quantile_per_prompt"}]')
    assert "raw_reward_at_zero_target" not in set(calibration_report(per_prompt, {})["metric"])
    assert "raw_reward_mean" not in set(calibration_report(table.assign(reward_transforms="[]"), {})["metric"])
