"""How far downstream results are known, by hand."""

import math

import pandas as pd
import pytest

from rao_kedro.evals.downstream.results import share_cut, spread_of, spread_of_mean


def test_a_mean_that_is_no_share_has_students_interval():
    # 0.2, 0.4, 0.9: mean 0.5, deviations -0.3, -0.1, 0.4, sd sqrt(0.26 / 2) = 0.360555, stderr 0.208167; with two
    # degrees of freedom t = 4.302653, so half the width is 0.895668.
    found = spread_of_mean([0.2, 0.4, 0.9])
    assert found == pytest.approx((0.208167, 0.5 - 0.895668, 0.5 + 0.895668), abs=1e-5)


def test_equal_values_say_nothing_of_how_far_they_spread():
    assert all(map(math.isnan, spread_of_mean([0.4, 0.4])[1:])) and all(map(math.isnan, spread_of_mean([0.4])))
    # Of a share, they do: none of 3 may still be 56 %.
    assert spread_of_mean([0.0, 0.0, 0.0]) == pytest.approx((0.0, 0.0, 0.561497), abs=1e-5)


def test_a_metric_that_is_no_mean_is_resampled_by_item():
    median = lambda items: sorted(items)[len(items) // 2]  # noqa: E731
    found = spread_of(median, [1.0, 2.0, 3.0, 4.0, 9.0] * 20)
    # The 51st of 100 values is 3; that of a draw is 2 where less than 50 of it are above, and seldom 1 or 9.
    assert 2.0 <= found.low <= 3.0 <= found.high <= 4.0 and 0 < found.stderr < 1
    assert all(map(math.isnan, spread_of(median, [1.0])))


def test_only_what_was_written_can_be_cut():
    assert share_cut(pd.DataFrame({"finish_reason": ["length", "stop", None, "stop", "stop"]})) == 0.25
    assert math.isnan(share_cut(pd.DataFrame({"finish_reason": [None, None]})))
