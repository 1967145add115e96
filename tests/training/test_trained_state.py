"""What a checkpoint holds, and what is not read from one."""

import pickle
import random
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from rao_kedro.config.training import LoRAParameters
from rao_kedro.errors import TrainingError
from rao_kedro.models.adapters import add_lora
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.training import checkpoints
from rao_kedro.training.best import Best
from rao_kedro.training.checkpoints import Checkpoints
from rao_kedro.training.master_weights import named_trained_parameters
from rao_kedro.training.trained_state import (
    TrainedState,
    copy_to_cpu,
    n_bytes,
    random_state,
    set_random_state,
    write_tensors,
)

CPU = torch.device("cpu")


@pytest.fixture
def make_state():
    """Returns a function that makes the state of a module with one trained and one frozen weight."""

    def make(start):
        module = nn.Linear(3, 2)
        nn.init.constant_(module.weight, start)
        module.bias.requires_grad_(False)
        optimizer = torch.optim.AdamW([module.weight], lr=0.1, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return module, TrainedState(named_trained_parameters(module, None), optimizer, schedule)

    return make


def take_step(module, state):
    module(torch.ones(1, 3)).sum().backward()
    state.optimizer.step()
    state.schedule.step()
    state.optimizer.zero_grad()


def test_a_loaded_state_goes_on_as_the_one_that_was_written(make_state, tmp_path):
    module, state = make_state(1.0)
    take_step(module, state)
    tensors, rest = state.share(0, 1)
    copies = copy_to_cpu(tensors)
    assert n_bytes(copies) == 3 * 6 * 4 + 4
    take_step(module, state)  # the copies do not follow
    write_tensors(copies, tmp_path, None)

    other, loaded = make_state(5.0)
    loaded.load(tmp_path, rest, None)
    assert loaded.optimizer.param_groups[0]["lr"] == 0.05
    take_step(other, loaded)
    assert torch.equal(other.weight, module.weight)
    assert loaded.optimizer.state_dict()["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_the_share_of_each_process_is_its_part_of_what_is_trained(make_state):
    module, state = make_state(1.0)
    take_step(module, state)
    names = ["model.weight", "optimizer.weight.exp_avg", "optimizer.weight.exp_avg_sq", "optimizer.weight.step"]
    assert sorted(state.share(0, 1)[0]) == names
    shares = [sorted(state.share(process, 2)[0]) for process in range(2)]
    assert sorted(shares[0] + shares[1]) == names and len(shares[0]) == 2


def test_numbers_of_an_optimizer_are_kept_beside_its_tensors(make_state, tmp_path):
    module, state = make_state(1.0)
    take_step(module, state)
    state.optimizer.state[module.weight]["step"] = 7  # as bitsandbytes counts
    tensors, rest = state.share(0, 1)
    write_tensors(tensors, tmp_path, None)
    other, loaded = make_state(5.0)
    loaded.load(tmp_path, rest, None)
    assert loaded.optimizer.state[other.weight]["step"] == 7


def test_a_checkpoint_of_lora_holds_the_adapters_only(tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint)
    add_lora(model, LoRAParameters(rank=2, alpha=4))
    trained = named_trained_parameters(model, None)
    optimizer = torch.optim.AdamW(trained.values())
    state = TrainedState(trained, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0))
    names = state.share(0, 1)[0]
    assert names and all(".lora_" in name for name in names)


def test_an_index_that_names_other_code_is_not_unpickled(make_state, tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return open, (str(ran), "w")

    _, state = make_state(1.0)
    write_tensors(state.share(0, 1)[0], tmp_path, None)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match=r"io\.open has no place in the index of a checkpoint"):
        state.load(tmp_path, {}, None)
    assert not ran.exists()


def test_all_random_generators_continue():
    state = random_state(CPU)
    draws = [(random.random(), np.random.rand(), torch.rand(1).item()) for _ in range(2)]
    set_random_state(state, CPU)
    assert [(random.random(), np.random.rand(), torch.rand(1).item()) for _ in range(2)] == draws


@pytest.mark.parametrize("free", [0, 10**9])
def test_without_room_for_a_copy_training_waits_for_its_checkpoint(make_state, tmp_path, monkeypatch, free):
    written, go_on = tmp_path / "checkpoints/step-000000001", threading.Event()
    module, state = make_state(1.0)
    with Checkpoints(Accelerator(cpu=True), tmp_path, 1, state) as saved:
        monkeypatch.setattr(checkpoints.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        if free:  # what is written in the background waits for training
            monkeypatch.setattr(checkpoints, "write_tensors", lambda *of: go_on.wait() and write_tensors(*of))
        saved.save(1, Best(0.5, 2))
        assert written.exists() == (free == 0)
        take_step(module, state)
        go_on.set()
    assert written.exists()
    other, loaded = make_state(5.0)
    assert Checkpoints(Accelerator(cpu=True), tmp_path, 1, loaded).resume() == (1, Best(0.5, 2))
    assert torch.equal(other.weight, torch.ones(2, 3))


def test_a_machine_that_does_not_see_the_checkpoints_is_named(make_state, tmp_path, monkeypatch):
    found = Checkpoints(Accelerator(cpu=True), tmp_path, 1, make_state(1.0)[1])
    found._refuse_unseen_directory()
    monkeypatch.setattr(checkpoints, "PATIENCE", 0.0)
    monkeypatch.setattr(checkpoints.socket, "gethostname", lambda: "second-node")
    monkeypatch.setattr(checkpoints.Path, "exists", lambda self: False)
    with pytest.raises(TrainingError, match="is not there on second-node: put data_root on storage"):
        found._refuse_unseen_directory()
