"""Rewards joined to prompt groups, and the report on them."""

import numpy as np
import pandas as pd
import pytest

from rao_kedro.errors import DataError
from rao_kedro.rewards.annotation import annotate, reward_report, standardised_ratings


def groups():
    return pd.DataFrame(
        {
            "group_id": ["a", "b"],
            "split": ["train", "test"],
            "ratings": [[1.0, 0.0, 0.5], [1.0, 0.0]],
            "chosen": [0, 0],
            "rejected": [1, 1],
        }
    )


def annotated(first=(2.0, -1.0, 0.5), second=(-3.0, 1.0)):
    rewards = pd.DataFrame({"group_id": ["b", "a"], "rewards": [list(second), list(first)]})
    return annotate(groups(), rewards, "hash")


def test_rewards_are_joined_by_group_with_their_mean_and_standard_deviation():
    table = annotated()
    assert list(table["rewards"]) == [[2.0, -1.0, 0.5], [-3.0, 1.0]]
    assert table["reward_mean"].iloc[0] == pytest.approx(-0.1)
    assert table["reward_std"].iloc[0] == pytest.approx(np.std([2.0, -1.0, 0.5, -3.0, 1.0]))


def test_ratings_become_rewards_of_mean_0_and_standard_deviation_1_over_the_training_split():
    """Ratings 1, 0, 0.5 of the training group: mean 0.5, standard deviation sqrt(1/6)."""
    table = annotate(groups(), standardised_ratings(groups()), "ratings")
    scale = 6**0.5
    assert table["rewards"][0] == pytest.approx([0.5 * scale, -0.5 * scale, 0.0])
    assert table["rewards"][1] == pytest.approx([0.5 * scale, -0.5 * scale])  # held out, on the same scale
    assert set(table["reward_model"]) == {"ratings"}


def test_a_group_without_rewards_and_rewards_without_spread_are_refused():
    with pytest.raises(DataError, match="1 groups have no rewards, the first is b"):
        annotate(groups(), pd.DataFrame({"group_id": ["a"], "rewards": [[1.0, 2.0, 3.0]]}), "hash")
    with pytest.raises(DataError, match=r"all 5 rewards are 1\.0"):
        annotated((1.0, 1.0, 1.0), (1.0, 1.0))


@pytest.mark.parametrize(
    ("rao", "up"),
    [
        ({"beta": 0.1, "log_z0": "auto"}, 1.0),  # threshold = mean of the training rewards = 0.5 < 2
        ({"beta": 0.1, "log_z0": 19.0}, 1.0),  # 1.9 < 2
        ({"log_z0": 21.0}, 0.0),  # RAO's own beta, 0.1: 2.1 > 2
        ({}, 0.0),  # RAO's own log_z0, 50: 5 > 2
    ],
)
def test_the_report_says_how_many_chosen_responses_this_rao_run_raises(rao, up):
    report = reward_report(annotated(), rao).set_index(["split", "metric"])["value"]
    assert report["train", "chosen_target_is_up"] == up
    assert report["train", "pair_accuracy"] == 1.0 and report["test", "pair_accuracy"] == 0.0
    assert report["train", "chosen_minus_rejected"] == 3.0
