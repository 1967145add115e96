"""Evaluations every few steps, the best weights among them, and the end of a run that gets no better."""

import pytest
import torch
from groups import log_of, parameters, write_groups
from launching import IN_PROCESS

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.errors import TrainingError
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.training.best import Best
from rao_kedro.training.passes import Passes
from rao_kedro.workers import launch

STEPS = 6  # three epochs of two


@pytest.fixture
def losses(monkeypatch):
    """What evaluations find after each step; a test fills it in."""
    found: list[float] = []
    evaluate = Passes.evaluate

    def of_the_test(self, groups, progress):
        return {**evaluate(self, groups, progress), "loss": found[round(progress * STEPS)]}

    monkeypatch.setattr(Passes, "evaluate", of_the_test)
    return found


@pytest.fixture
def train(tmp_path, tiny_checkpoint):
    groups = write_groups(tmp_path / "groups.parquet", 12)

    def run(name, **training):
        training = parameters(**{"epochs": 3, "eval_every_steps": 1} | training)
        spec = TrainingSpec(workspace=tmp_path / name, model_dir=tiny_checkpoint, groups_path=groups, training=training)
        launch(spec, IN_PROCESS)
        steps, evaluations = log_of(spec.workspace)
        weights = load_causal_lm(spec.trained_dir).state_dict() if spec.trained_dir.exists() else {}
        return [row["step"] for row in steps], [row["step"] for row in evaluations], weights

    return run


def same(weights, others):
    return all(torch.equal(value, others[name]) for name, value in weights.items())


def test_the_counter_starts_again_at_a_better_evaluation():
    best = Best()
    for score, expected in ((1.0, (1.0, 0)), (0.5, (1.0, 1)), (float("nan"), (1.0, 2)), (1.5, (1.5, 0))):
        best = best.after(score)
        assert (best.score, best.since) == expected


def test_an_evaluation_every_few_steps_and_one_at_the_end(train):
    for every, expected in ((1, [0, 1, 2, 3, 4, 5, 6]), (4, [0, 4, 6]), (None, [0, 2, 4, 6])):
        assert train(f"every_{every}", eval_every_steps=every)[1] == expected


def test_a_run_stops_after_evaluations_that_are_no_better_and_the_best_weights_are_published(train, losses, caplog):
    losses += [9, 3, 2, 4, 5, 6, 7]
    caplog.set_level("INFO", "rao_kedro")
    whole = train("whole", keep="best")
    stopped = train("stopped", keep="best", early_stopping_patience=2)
    assert (stopped[0], stopped[1]) == ([1, 2, 3, 4], [0, 1, 2, 3, 4])
    assert "training stops after step 4 of 6: no better loss in 2 evaluations in a row" in caplog.text
    assert same(stopped[2], whole[2])  # of step 2
    last = train("last", keep="last", early_stopping_patience=2)
    assert last[0] == [1, 2, 3, 4] and not same(last[2], whole[2])


def test_a_better_evaluation_in_time_keeps_the_run_going(train, losses):
    losses += [9, 3, 4, 2, 5, 1, 6]
    assert train("patient", early_stopping_patience=2)[0] == [1, 2, 3, 4, 5, 6]


def test_a_resumed_run_remembers_the_best_and_how_long_ago_it_was(train, losses, killed_at_step_4):
    """The checkpoint is that of step 3, one evaluation after the best."""
    losses += [9, 3, 2, 4, 5, 6, 7]
    how = {"keep": "best", "early_stopping_patience": 2, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train("killed", **how)
    killed = train("killed", **how)
    assert killed_at_step_4 == [1, 2, 3, 4, 4]
    assert killed[1] == [0, 1, 2, 3, 4]
    assert same(killed[2], train("whole", **how)[2])


def test_a_run_that_was_stopped_with_its_patience_at_an_end_takes_no_more_steps(train, losses, monkeypatch):
    from rao_kedro.training.loop import _Run

    losses += [9, 3, 4, 5, 6, 7, 8]
    publish = _Run._publish

    def killed(self):
        raise KeyboardInterrupt

    how = {"keep": "last", "early_stopping_patience": 2, "checkpoint_every": 1}
    monkeypatch.setattr(_Run, "_publish", killed)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", **how)
    monkeypatch.setattr(_Run, "_publish", publish)
    steps, _, weights = train("stopped", **how)
    assert steps == [1, 2, 3] and same(weights, train("whole", **how)[2])


def test_patience_needs_something_held_out(train, monkeypatch):
    from rao_kedro.training.tasks.sft import SupervisedFinetuning

    init = SupervisedFinetuning.__init__

    def without(self, spec):
        init(self, spec)
        self.eval_groups = []

    monkeypatch.setattr(SupervisedFinetuning, "__init__", without)
    with pytest.raises(TrainingError, match=r"early_stopping_patience is set, but there is nothing held out"):
        train("nothing", early_stopping_patience=1)
