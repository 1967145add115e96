"""Two processes on a CPU (gloo): losses, weights and reference log-probs are those of one process.

DeepSpeed is tested where it is installed (`pip install deepspeed`).
"""

import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from groups import alignment_spec, log_of, parameters, write_groups
from safetensors.torch import load_file

from rao_kedro.files import write_text
from rao_kedro.schemas.rewards import RewardParameters
from rao_kedro.schemas.specs import AnnotationSpec, RewardTrainingSpec, ScoringSpec, TrainingSpec
from rao_kedro.schemas.training import LoRAParameters
from rao_kedro.training.checkpoints import DIRECTORY
from rao_kedro.training.launch import launch

PROJECT = Path(__file__).parents[2]
ENGINES = {
    "ddp": {"ACCELERATE_USE_CPU": "true"},
    "fsdp2": {
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    },
    "zero3": {
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_TORCH_DEVICE": "cpu",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
    },
}
SHARDED_BY = {"fsdp2": ", sharded by FSDP", "zero3": ", sharded by DEEPSPEED"}
ZERO3 = pytest.param(
    "zero3", marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
)

pytestmark = pytest.mark.slow


def on_two_processes(task, spec, engine, *how):
    """Run a task as `launch` would with two GPUs; return the exit status and what it said."""
    spec.workspace.mkdir(parents=True, exist_ok=True)
    write_text(spec.workspace / "spec.json", spec.model_dump_json())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    worker = [str(Path(__file__).with_name("distributed_worker.py")), task, str(spec.workspace / "spec.json"), *how]
    ended = subprocess.run(
        [*torchrun, *worker], env=os.environ | ENGINES[engine], capture_output=True, text=True, timeout=300
    )
    return ended.returncode, ended.stdout + ended.stderr


def reference_spec(directory, model_dir, groups_path):
    return ScoringSpec(
        workspace=directory / "reference_work",
        model_dir=model_dir,
        groups_path=groups_path,
        output_path=directory / "reference.parquet",
        max_tokens_per_batch=40,
        mixed_precision="no",
    )


TRAINING = parameters(
    epochs=2, max_tokens_per_batch=30, groups_per_step=3, learning_rate=1e-3, checkpoint_every=1, keep="last"
)


def training_spec(task, directory, model_dir, groups_path):
    """Return the worker and what it is to do; `directory` holds the reference log-probs."""
    inputs = {"workspace": directory / task, "model_dir": model_dir, "groups_path": groups_path, "training": TRAINING}
    if task == "sft":
        return "sft", TrainingSpec(**inputs)
    if task == "reward":
        return "reward", RewardTrainingSpec(**inputs)
    objective = {"rao": {"beta": 1.0, "log_z0": 0.0}, "dro": {"tau": 1.0}}[task]
    return "alignment", alignment_spec(directory, model_dir, groups_path, task, training=TRAINING, **objective)


@pytest.fixture
def groups_path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 12)


@pytest.fixture
def alone(tmp_path, tiny_checkpoint, groups_path):
    """The reference log-probs that one process computes."""
    launch("reference", spec := reference_spec(tmp_path, tiny_checkpoint, groups_path), None)
    return spec


def trained_in(workspace):
    """Return the loss of every step, and the published weights."""
    return [step["loss"] for step in log_of(workspace)[0]], load_file(workspace / "model" / "model.safetensors")


def assert_same_training(found, expected):
    (losses, weights), (expected_losses, expected_weights) = trained_in(found), trained_in(expected)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", ZERO3])
@pytest.mark.parametrize("task", ["rao", "dro", "sft", "reward"])
def test_two_processes_train_the_same_weights_as_one(tmp_path, tiny_checkpoint, groups_path, task, engine):
    worker, spec = training_spec(task, tmp_path, tiny_checkpoint, groups_path)
    launch(worker, spec, None)
    on_two = spec.model_copy(update={"workspace": tmp_path / "two"})
    status, said = on_two_processes(worker, on_two, engine)
    assert status == 0, said
    assert f"of each of 2 processes{SHARDED_BY.get(engine, '')}\n" in said
    assert_same_training(on_two.workspace, spec.workspace)


@pytest.mark.usefixtures("alone")
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a C++ compiler")
def test_options_go_together_with_sharding(tmp_path, tiny_checkpoint, groups_path):
    worker, spec = training_spec("rao", tmp_path, tiny_checkpoint, groups_path)
    options = {"lora": LoRAParameters(rank=4, alpha=8), "compile": True, "activation_checkpointing": True}
    spec = spec.model_copy(update={"training": TRAINING.model_copy(update=options)})
    launch(worker, spec, None)
    on_two = spec.model_copy(update={"workspace": tmp_path / "two"})
    status, said = on_two_processes(worker, on_two, "fsdp2")
    assert status == 0, said
    assert_same_training(on_two.workspace, spec.workspace)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", ZERO3])
def test_two_processes_that_were_stopped_go_on_to_the_same_weights(tmp_path, tiny_checkpoint, groups_path, engine):
    worker, spec = training_spec("rao", tmp_path, tiny_checkpoint, groups_path)
    launch(worker, spec, None)
    on_two = spec.model_copy(update={"workspace": tmp_path / "two"})
    _, said = on_two_processes(worker, on_two, engine, "stop_after_a_step")
    assert "stopped by SIGTERM after step 1" in said
    assert [path.name for path in (on_two.workspace / DIRECTORY).iterdir()] == ["step-000000001"]
    status, said = on_two_processes(worker, on_two, engine)
    assert status == 0 and "step 1/6" not in said, said
    assert_same_training(on_two.workspace, spec.workspace)


def test_two_processes_compute_the_same_reference_log_probs_as_one(alone, tmp_path, tiny_checkpoint, groups_path):
    (tmp_path / "two").mkdir()
    spec = reference_spec(tmp_path / "two", tiny_checkpoint, groups_path)
    status, said = on_two_processes("reference", spec, "ddp")
    assert status == 0, said
    one, two = (
        pd.read_parquet(scored.output_path).sort_values("group_id", ignore_index=True) for scored in (alone, spec)
    )
    pd.testing.assert_frame_equal(one, two, rtol=1e-5)


def test_two_processes_annotate_as_one(tmp_path, tiny_reward_model, groups_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        parameters = {"model_dir": str(tiny_reward_model), "mixed_precision": "no", "max_tokens_per_batch": 60}
        spec = AnnotationSpec(
            workspace=tmp_path / name,
            groups_path=groups_path,
            reward=RewardParameters(parameters=parameters),
            output_path=tmp_path / name / "rewards.parquet",
            groups_per_shard=5,
        )
        if name == "one":
            launch("annotate", spec, None)
        else:
            status, said = on_two_processes("annotate", spec, "ddp")
            assert status == 0, said
        found.append(pd.read_parquet(spec.output_path))
    pd.testing.assert_frame_equal(*found, rtol=1e-5)


def test_shards_in_bf16_return_losses_in_fp32(tmp_path, tiny_checkpoint, groups_path):
    worker, spec = training_spec("sft", tmp_path, tiny_checkpoint, groups_path)
    spec = spec.model_copy(update={"training": TRAINING.model_copy(update={"mixed_precision": "bf16"})})
    launch(worker, spec, PROJECT / "conf/accelerate/cpu.yaml")
    on_two = spec.model_copy(update={"workspace": tmp_path / "two"})
    status, said = on_two_processes(worker, on_two, "fsdp2")
    assert status == 0, said
    losses, expected = (trained_in(workspace)[0] for workspace in (on_two.workspace, spec.workspace))
    assert losses == pytest.approx(expected, rel=5e-3)
    assert losses != torch.tensor(losses).bfloat16().tolist()


STAND_INS = {
    "scontrol": "echo 127.0.0.1",
    "srun": 'shift; for n in 0 1; do SLURM_NODEID=$n "$@" & done; wait -n && wait -n',
}


def test_a_slurm_job_of_two_nodes_trains_the_same_weights_as_one_process(
    tmp_path, tiny_checkpoint, groups_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    (programs := tmp_path / "bin").mkdir()
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    accelerate_config = yaml.safe_load((PROJECT / "conf/accelerate/fsdp2_two_machines.yaml").read_text())
    accelerate_config |= {"distributed_type": "MULTI_GPU", "num_processes": 2, "main_process_port": free_port()}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(accelerate_config))

    worker, spec = training_spec("sft", tmp_path, tiny_checkpoint, groups_path)
    launch(worker, spec, None)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("RAO_KEDRO_LAUNCHER", str(PROJECT / "conf/accelerate/slurm_launcher.sh"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    on_two = spec.model_copy(update={"workspace": tmp_path / "two"})
    launch(worker, on_two, tmp_path / "two.yaml")
    assert "of each of 2 processes" in caplog.text
    assert_same_training(on_two.workspace, spec.workspace)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
