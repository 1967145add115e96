"""Figures of studies."""

import pandas as pd
from leaderboards import row

from rao_kedro.evals.downstream.figures import accuracy_bars
from rao_kedro.evals.tables import LeaderboardTable
from rao_kedro.reporting.figures import reward_model_accuracies, scores_by_method, scores_by_round, training_dynamics


def test_reward_models_are_drawn_beside_the_length_only_baseline(tmp_path):
    ends = {"accuracy_low": 0.4, "accuracy_high": 0.7, "loss_low": 0.6, "loss_high": 0.8}
    rows = [
        {"form": "longer response", "size": "", "train_groups": 0, "accuracy": 0.5, "n": 9, **ends},
        {"form": "sft", "size": "small", "train_groups": 40, "accuracy": 0.6, "loss": 0.7, "n": 9, **ends},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "study.csv")  # as the catalog keeps it
    figure = reward_model_accuracies(pd.read_csv(tmp_path / "study.csv"))
    assert {trace.name for trace in figure.data} == {"no training", "small: 40 groups"}


def board(*methods):
    columns = dict.fromkeys(LeaderboardTable.to_schema().columns, float("nan"))
    return pd.DataFrame([columns | {"method": name, "n": 9, "seeds": 1, "judge": "reward"} for name in methods])


def test_a_method_has_the_same_colour_in_all_figures_whatever_its_rank():
    def of_simpo(figure):
        return {trace.marker.color for trace in figure.data if "simpo" in (trace.name, *trace.x)}

    log = pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5]})
    bars = pd.DataFrame({"method": ["sft", "ppo", "simpo"], "benchmark": "gsm8k", "metric": "accuracy", "value": 5.0})
    bars = bars.assign(low=1.0, high=9.0, chance=0.0, n=9, judge="")
    colors = [
        of_simpo(training_dynamics({"ppo": log, "simpo": log})),
        of_simpo(scores_by_method(board("simpo", "sft", "ppo").fillna(0.5))),
        of_simpo(scores_by_method(board("sft", "ppo", "simpo").fillna(0.5))),
        of_simpo(accuracy_bars(bars)),
    ]
    assert len(set.union(*colors)) == 1


def test_scores_that_nobody_has_are_drawn_as_none():
    assert [*scores_by_method(board("rao", "sft")).data]


def test_the_drift_of_the_prompts_is_drawn_where_a_method_has_one_and_log_z0_is_named():
    steps = {"step": [1, 2], "loss": [1.0, 0.5]}
    rao = pd.DataFrame(steps | {"log_z": [3.25, 3.5], "prompt_log_ratio": [0.0, 0.25]})
    dpo = pd.DataFrame(steps)
    title = "Prompt log-ratio D = log Z - log_z0 (nats); log_z0: "
    for logs, named in (({"training": rao}, "3.25"), ({"rao": rao, "rao_seed_1": rao, "dpo": dpo}, "rao 3.25")):
        figure = training_dynamics(logs)
        assert [text.text for text in figure.layout.annotations][-1] == title + named
        drawn = [[*trace.y] for trace in figure.data if [*trace.y] == [0.0, 0.25]]
        assert len(drawn) == sum(method.startswith(("rao", "training")) for method in logs)
    assert not [text for text in training_dynamics({"dpo": dpo}).layout.annotations if "log_z0" in text.text]


def test_rounds_are_drawn_from_sft_on_each_method_with_its_own_number_of_them():
    rows = [row(name, score, 0.0, 0.0, 0.0) for name, score in (("sft", 0.5), ("rao", 0.8), ("rao_round_2", 0.7))]
    board = pd.DataFrame([*rows, row("dpo", 0.6, 0.0, 0.0, 0.0), row("kto", 0.4, 0.0, 0.0, 0.0)])
    figure = scores_by_round(board, {"rao": 4, "dpo": 1})
    drawn = {trace.name: (tuple(map(round, trace.x)), tuple(trace.y)) for trace in figure.data if trace.showlegend}
    assert drawn == {"rao": ((0, 2, 4), (0.5, 0.7, 0.8)), "dpo": ((0, 1), (0.5, 0.6))}
    assert len({trace.x[0] for trace in figure.data if trace.showlegend}) == 2  # beside each other
