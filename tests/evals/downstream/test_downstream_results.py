"""How far downstream results are known, by hand."""

import math

import pandas as pd
import pytest

from rao_kedro.evals.downstream.results import share_cut, spread_of, spread_of_mean


def test_a_mean_of_values_beyond_0_and_1_has_students_interval():
    # 2, 4, 9: mean 5, deviations -3, -1, 4, sd sqrt(26 / 2) = 3.60555, stderr 2.08167; with two degrees of freedom
    # t = 4.302653, so half the width is 8.95668.
    assert spread_of_mean([2.0, 4.0, 9.0]) == pytest.approx((2.08167, 5 - 8.95668, 5 + 8.95668), abs=1e-4)
    assert all(map(math.isnan, spread_of_mean([4.0, 4.0])[1:]))


def test_a_mean_of_shares_has_an_interval_within_0_and_1():
    assert 0 < spread_of_mean([0.2, 0.4, 0.9]).low < 0.5 < spread_of_mean([0.2, 0.4, 0.9]).high < 1
    # None of 3 right may still be 1 - 0.025 ** (1 / 3), after Clopper and Pearson.
    assert spread_of_mean([0.0, 0.0, 0.0]) == pytest.approx((0.0, 0.0, 0.707598), abs=1e-5)


def test_a_metric_that_is_no_mean_is_resampled_by_item():
    median = lambda items: sorted(items)[len(items) // 2]  # noqa: E731
    found = spread_of(median, [1.0, 2.0, 3.0, 4.0, 9.0] * 20)
    # The 51st of 100 values is 3; that of a draw is 2 where less than 50 of it are above, and seldom 1 or 9.
    assert 2.0 <= found.low <= 3.0 <= found.high <= 4.0 and 0 < found.stderr < 1
    assert all(map(math.isnan, spread_of(median, [1.0])))


def test_only_what_was_written_can_be_cut():
    assert share_cut(pd.DataFrame({"finish_reason": ["length", "stop", None, "stop", "stop"]})) == 0.25
    assert math.isnan(share_cut(pd.DataFrame({"finish_reason": [None, None]})))
