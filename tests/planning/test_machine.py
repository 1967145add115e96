"""Launch files, options of training, memory and disk against the machine."""

from pathlib import Path

import pytest
from plans import training_parameters

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.training import LoRAParameters
from rao_kedro.planning import machine
from rao_kedro.planning.machine import ModelsInMemory

ROOT = Path(__file__).parents[2]


def test_accelerate_files_of_the_project_are_read_and_ask_for_gpus_that_are_there(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.delenv("RAO_KEDRO_LAUNCHER", raising=False)

    def found(gpus):
        monkeypatch.setattr(machine, "visible_gpus", lambda: gpus)
        paths = sorted((ROOT / "conf/accelerate").glob("*.yaml"))
        return {path.stem: list(machine.launch_problems(path, machine.read_launch(path))) for path in paths}

    eight = found(8)
    assert [name for name, sentences in eight.items() if sentences] == ["deepspeed_zero3"]  # which is not installed
    assert "DeepSpeed, which is not installed" in eight["deepspeed_zero3"][0]
    assert {name for name, said in found(4).items() if "starts 8 processes with a GPU each" in " ".join(said)} == {
        *("ddp", "deepspeed_zero3", "fsdp2", "fsdp2_two_machines")
    }
    assert "which has none" in found(0)["fsdp2"][0]
    assert found(None)["fsdp2"] == []
    monkeypatch.setenv("RAO_KEDRO_LAUNCHER", "srun")
    assert found(0)["fsdp2"] == []


def test_a_file_that_is_no_accelerate_file_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("processes: 8")
    assert "mine.yaml is no accelerate file" in machine.read_launch(tmp_path / "mine.yaml")


def test_options_of_training_that_do_not_work_here_are_refused(monkeypatch):
    fsdp = machine.read_launch(ROOT / "conf/accelerate/fsdp2.yaml")
    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(machine, "find_spec", lambda name: object())

    def found(launch=fsdp, samples=False, **how):
        return list(machine.training_problems("alignment.ppo.training", training_parameters(**how), launch, samples))

    assert found() == [] and found(optimizer="adamw_8bit") == []
    assert "fsdp_activation_checkpointing" in found(activation_checkpointing=True)[0]
    assert found(samples=True)[0].startswith("alignment.ppo: ppo samples from the policy, which FSDP would shard")
    deepspeed = machine.read_launch(ROOT / "conf/accelerate/deepspeed_zero3.yaml")
    assert "does not work with DeepSpeed" in found(deepspeed, compile=True)[0]
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    assert "adamw_8bit needs a GPU" in found(None, optimizer="adamw_8bit")[0]


def test_memory_counts_weights_gradients_and_optimizer_and_what_is_sharded(monkeypatch):
    weights = 10**9
    fsdp = machine.read_launch(ROOT / "conf/accelerate/fsdp2.yaml")
    assert machine.state_bytes(training_parameters(), weights, None) == 16 * weights
    assert machine.state_bytes(training_parameters(optimizer="adamw_8bit"), weights, None) == 10 * weights
    assert machine.state_bytes(training_parameters(lora=LoRAParameters()), weights, None) == 4 * weights
    assert machine.state_bytes(training_parameters(), weights, fsdp, models=ModelsInMemory(2)) == 4 * weights
    copies = {"mixed_precision": "bf16_weights"}  # beside the masters; an engine that shards makes them layer by layer
    assert machine.state_bytes(training_parameters(**copies), weights, None) == 18 * weights
    assert machine.state_bytes(training_parameters(**copies, lora=LoRAParameters()), weights, None) == 2 * weights
    assert machine.state_bytes(training_parameters(**copies), weights, fsdp, models=ModelsInMemory(2)) == 4 * weights
    held = ModelsInMemory(trained=2, frozen=2)
    lora = training_parameters(**copies, lora=LoRAParameters())
    assert machine.state_bytes(lora, weights, None, held) == 8 * weights
    assert machine.state_bytes(training_parameters(), weights, None, held) == (32 + 8) * weights
    monkeypatch.setattr(machine, "main_memory", lambda: 16 * weights)
    assert list(machine.memory_problems("train_sft", 16 * weights, None)) == []
    (sentence,) = machine.memory_problems("train_sft", 16 * weights + 1, None)
    assert sentence.startswith("train_sft: weights, gradients and optimizer take 16 GB of memory, and this machine has")
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    assert list(machine.memory_problems("train_sft", 99 * weights, fsdp)) == []  # it is refused for want of GPUs
    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(machine, "gpu_memory", lambda: 10**9)
    assert "the smallest GPU has 1.0 GB" in next(machine.memory_problems("train_sft", 2 * 10**9, fsdp))
    offloading = fsdp._replace(options={"fsdp_config": {"fsdp_offload_params": True}})
    assert list(machine.memory_problems("train_sft", 2 * 10**9, offloading)) == []


def test_a_round_of_ppo_trains_two_models_and_scores_the_reference_before(monkeypatch):
    """8e9 weights each on eight GPUs: 2 x 16 bytes in training, 2 x 4 bytes and a whole reference before it."""
    weights, fsdp = 8 * 10**9, machine.read_launch(ROOT / "conf/accelerate/fsdp2.yaml")
    how = {"training": training_parameters(), "rounds": {"n": 1}}
    ppo, rloo = (MethodParameters(objective=name, **how) for name in ("ppo", "rloo"))
    models = machine.models_in_memory(ppo)
    assert models == ModelsInMemory(2, 0, 1) and machine.models_in_memory(rloo) == ModelsInMemory(1)

    def gigabytes(memory, launch=fsdp, **how):
        monkeypatch.setattr(machine, "gpu_memory", lambda: memory * 10**9)
        return machine.state_bytes(training_parameters(**how), weights, launch, models) / 10**9

    assert gigabytes(80, mixed_precision="bf16") == 8 + 32  # the reference in fp32
    assert gigabytes(80, mixed_precision="bf16_weights") == 32  # 8 + 16 before the first step
    assert gigabytes(48, mixed_precision="bf16") == 32  # the reference does not fit, and is sharded: 8 + 4
    assert gigabytes(400, launch=None, mixed_precision="bf16_weights") == 2 * 8 * 18
    zero3 = machine.read_launch(ROOT / "conf/accelerate/deepspeed_zero3.yaml")
    assert gigabytes(48, launch=zero3, mixed_precision="bf16") == 8 + 32  # scoring is not sharded with DeepSpeed


def test_gpus_that_are_hidden_do_not_count(monkeypatch):
    if machine.visible_gpus() is None:
        pytest.skip("GPUs of this machine are of another kind")
    devices = ("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: map(Path, devices))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible_gpus() == 2
    for listed, n in (("", 0), ("1", 1), ("0,1,2", 2), ("0,-1,1", 1), ("MIG-a,MIG-b,MIG-c", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert machine.visible_gpus() == n, listed


def test_a_disk_that_is_too_full_is_refused(tmp_path, monkeypatch):
    place = tmp_path / "not/there/yet"
    free = machine.free_bytes(place)
    assert list(machine.disk_problems(free // 2, place)) == []
    (sentence,) = machine.disk_problems(free * 2, place)
    assert "the models and checkpoints of this run take" in sentence and "data_root" in sentence
    assert list(machine.table_problems(free // 2, place)) == []
    (sentence,) = machine.table_problems(free * 2, place)
    assert "the tables of this data take" in sentence and "max_rows" in sentence
