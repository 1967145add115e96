"""The learning rate of every step: none is 0, and a run of one step trains."""

import pytest
import torch
from groups import log_of, parameters, write_groups
from launching import IN_PROCESS
from transformers import get_scheduler

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.training.schedule import make_schedule, warmup_remark
from rao_kedro.workers import launch

SCHEDULERS = ["linear", "cosine", "constant_with_warmup"]


def rates_of(schedule, optimizer, n_steps):
    rates = []
    for _ in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def rates(scheduler, warmup_ratio, n_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    how = parameters(learning_rate=2.0, lr_scheduler=scheduler, warmup_ratio=warmup_ratio)
    return rates_of(make_schedule(optimizer, how, n_steps), optimizer, n_steps)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("n_steps", [1, 2, 20])
def test_no_step_has_a_learning_rate_of_0(scheduler, warmup_ratio, n_steps):
    assert all(0 < rate <= 2.0 for rate in rates(scheduler, warmup_ratio, n_steps))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_first_rate_is_a_step_of_the_warm_up_and_the_peak_follows_it(scheduler):
    """A tenth of 20 steps: 2 of warm-up, so thirds of the peak."""
    assert rates(scheduler, 0.1, 20)[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_after_the_warm_up_the_rates_are_those_of_transformers(scheduler):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = rates_of(get_scheduler(scheduler, optimizer, 2, 20), optimizer, 20)
    assert rates(scheduler, 0.1, 20)[2:] == pytest.approx(theirs[2:])


def test_a_warm_up_as_long_as_training_is_told(tmp_path):
    remark = warmup_remark(parameters(learning_rate=2.0, warmup_ratio=0.1), n_steps=1)
    assert remark is not None and "as long as training, 1 optimizer steps: the learning rate rises to 1 and" in remark
    assert warmup_remark(parameters(warmup_ratio=0.0), n_steps=1) is None
    assert warmup_remark(parameters(warmup_ratio=0.1), n_steps=2) is None
    assert "as long as training, 2 optimizer steps" in (warmup_remark(parameters(warmup_ratio=0.6), n_steps=2) or "")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_of_one_step_changes_the_weights(tmp_path, tiny_checkpoint, scheduler, caplog):
    spec = TrainingSpec(
        workspace=tmp_path / "sft",
        model_dir=tiny_checkpoint,
        groups_path=write_groups(tmp_path / "groups.parquet", 12),
        training=parameters(batch_size=64, lr_scheduler=scheduler, max_tokens_per_batch=200),
    )
    launch(spec, IN_PROCESS)
    (step,), _ = log_of(spec.workspace)
    assert step["learning_rate"] == pytest.approx(3e-3 / 2)
    before, after = (load_causal_lm(path).state_dict() for path in (tiny_checkpoint, spec.workspace / "model"))
    assert all(not torch.equal(after[name], weights) for name, weights in before.items() if "proj" in name)
    assert "warmup_ratio 0.1 makes the warm-up as long as training, 1 optimizer steps" in caplog.text
