"""Figures of studies."""

import pandas as pd

from rao_kedro.reporting.figures import reward_model_accuracies


def test_reward_models_are_drawn_beside_the_length_only_baseline(tmp_path):
    ends = {"accuracy_low": 0.4, "accuracy_high": 0.7, "loss_low": 0.6, "loss_high": 0.8}
    rows = [
        {"form": "longer response", "size": "", "train_groups": 0, "accuracy": 0.5, "n": 9, **ends},
        {"form": "sft", "size": "small", "train_groups": 40, "accuracy": 0.6, "loss": 0.7, "n": 9, **ends},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "study.csv")  # as the catalog keeps it
    figure = reward_model_accuracies(pd.read_csv(tmp_path / "study.csv"))
    assert {trace.name for trace in figure.data} == {"no training", "small: 40 groups"}
