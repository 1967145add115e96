"""The calibration figure on the tables that break figures: ties, constant lengths, one split, many responses."""

import numpy as np
import pandas as pd
import pytest

from rao_kedro.reporting.reward_figures import MAX_POINTS, TITLES, reward_calibration
from rao_kedro.rewards.reliability import accuracy_by_gap, target_grid


def table(groups, k, splits, length):
    random = np.random.default_rng(0)
    rows = [
        {
            "split": splits[i % len(splits)],
            "rewards": random.normal(size=k).tolist(),
            "ratings": list(range(k)),
            "response_lengths": [length(j) for j in range(k)],
            "chosen": k - 1,
            "rejected": 0,
            "raw_rewards": random.normal(size=k).tolist(),
            "reward_transforms": "[]",
        }
        for i in range(groups)
    ]
    return pd.DataFrame(rows)


def drawn(annotated):
    return reward_calibration(annotated, accuracy_by_gap(annotated), target_grid(annotated))


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("splits", [("train",), ("train", "validation", "test")])
@pytest.mark.parametrize("length", [lambda _: 4, lambda j: j + 1])
def test_every_panel_has_its_title_and_its_axes_say_what_they_measure(k, splits, length):
    figure = drawn(table(20, k, splits, length))
    assert {note.text for note in figure.layout.annotations} >= set(TITLES)
    assert len({trace.xaxis for trace in figure.data}) == len(TITLES)
    assert sum(trace.name.startswith("pairs of ") for trace in figure.data if trace.name) == len(splits)
    assert all(axis.title.text for axis in figure.select_xaxes())
    assert "Plotly.newPlot(" in figure.to_html(include_plotlyjs=False)


def test_many_responses_are_drawn_in_part_the_same_part_each_time():
    annotated = table(MAX_POINTS, 2, ("train",), lambda j: j + 1)
    first, again = ((drawn(annotated).data[-2]) for _ in range(2))
    assert len(first.x) == MAX_POINTS and list(first.y) == list(again.y)
    assert set(first.x) == {1, 2}


def test_transforms_have_a_panel_of_their_own():
    annotated = table(20, 3, ("train",), lambda _: 4).assign(reward_transforms='[{"name": "quantile_per_prompt"}]')
    figure = drawn(annotated)
    assert len({trace.xaxis for trace in figure.data}) == len(TITLES) + 1
    titles = [note.text for note in figure.layout.annotations]
    assert "Raw rewards and rewards to train with: quantile_per_prompt" in titles
    assert {axis.title.text for axis in figure.select_xaxes()} >= {"raw reward", "tokens"}
