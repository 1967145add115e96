"""Which parameters have a learning rate or a clipping of their own."""

import pytest
import torch
from accelerate.state import DistributedType
from groups import parameters
from torch import nn

from rao_kedro.errors import TrainingError
from rao_kedro.training import parameter_groups
from rao_kedro.training.parameter_groups import ParameterGroup, group_for_clipping, group_for_optimizer
from rao_kedro.training.schedule import make_schedule

TRAINED = {name: nn.Parameter(torch.zeros(1)) for name in ("policy.a", "value.a", "value.b", "values", "policy.b")}


def named(found):
    return [name for parameter in found for name, known in TRAINED.items() if known is parameter]


def test_without_settings_of_their_own_there_is_one_group_in_its_order():
    for groups in ((), [ParameterGroup("value")]):
        assert named(group_for_optimizer(TRAINED, groups)) == list(TRAINED)
        ((metric, together, norm),) = group_for_clipping(TRAINED, groups, parameters(max_grad_norm=2.0))
        assert (metric, named(together), norm) == ("grad_norm", list(TRAINED), 2.0)


def test_a_submodule_is_taken_by_its_whole_name():
    rest, own = group_for_optimizer(TRAINED, [ParameterGroup("value", learning_rate=0.5)])
    assert named(rest["params"]) == ["policy.a", "values", "policy.b"] and "lr" not in rest
    assert named(own["params"]) == ["value.a", "value.b"] and own["lr"] == 0.5
    rest, own = group_for_clipping(TRAINED, [ParameterGroup("value", max_grad_norm=0.1)], parameters())
    assert named(rest.parameters) == ["policy.a", "values", "policy.b"] and rest.metric == "grad_norm"
    assert named(own.parameters) == ["value.a", "value.b"] and own[::2] == ("value_grad_norm", 0.1)


def test_both_learning_rates_follow_the_schedule():
    groups = group_for_optimizer(TRAINED, [ParameterGroup("value", learning_rate=0.5)])
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    schedule = make_schedule(optimizer, parameters(lr_scheduler="linear", warmup_ratio=0.0), n_steps=4)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.1 * 0.75, 0.5 * 0.75])


def test_deepspeed_clips_all_together(monkeypatch):
    monkeypatch.setattr(parameter_groups, "sharding", lambda: DistributedType.DEEPSPEED.value)
    parameter_groups.refuse_clipping_apart([ParameterGroup("value", learning_rate=0.5)])
    with pytest.raises(TrainingError, match="value_max_grad_norm is set, and DeepSpeed clips"):
        parameter_groups.refuse_clipping_apart([ParameterGroup("value", max_grad_norm=0.5)])
