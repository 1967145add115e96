"""The summary of a likelihood study."""

import numpy as np
import pandas as pd
import pytest

from rao_kedro.evals.likelihoods import likelihood_summary


def test_a_run_is_summed_up_by_its_last_evaluation_with_a_wilson_interval():
    """3 of 10 fell: Wilson's 95 % interval is [0.108, 0.603]."""
    logs = pd.DataFrame(
        {
            "run": ["a"] * 3,
            "step": [0, 1, 1],
            "loss": [np.nan, 0.5, np.nan],
            "eval_loss": [0.9, np.nan, 0.4],
            "eval_log_ratio_chosen": [0.0, np.nan, -0.5],
            "eval_log_ratio_rejected": [0.0, np.nan, -2.0],
            "eval_chosen_likelihood_fell": [0.0, np.nan, 0.3],
        }
    )
    (row,) = likelihood_summary(logs, n=10).to_dict("records")
    assert (row["run"], row["n"], row["gap"], row["log_ratio_chosen"]) == ("a", 10, 1.5, -0.5)
    assert row["chosen_likelihood_fell_low"] == pytest.approx(0.108, abs=1e-3)
    assert row["chosen_likelihood_fell_high"] == pytest.approx(0.603, abs=1e-3)
    assert np.isnan(row["target_rmse"])  # a method without targets
