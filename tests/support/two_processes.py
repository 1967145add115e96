"""Runs tasks on two processes of a CPU (gloo) under the shipped accelerate files, and compares them with one process.

DeepSpeed is used where it is installed (`pip install deepspeed`).
"""

import importlib
import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from groups import log_of
from launching import IN_PROCESS
from safetensors.torch import load_file

from rao_kedro.errors import TrainingError
from rao_kedro.training.interruption import Interruption
from rao_kedro.workers import launch

PROJECT = Path(__file__).parents[2]
ON_CPUS = {"ACCELERATE_USE_CPU": "true"}
ZERO3_ON_CPUS = {"DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu"}
ENGINES = {  # the shipped file, what makes a CPU do, and what the run says of itself
    "ddp": ("ddp", ON_CPUS, ""),
    "fsdp2": ("fsdp2", ON_CPUS, ", sharded by FSDP"),
    "zero3": ("deepspeed_zero3", ZERO3_ON_CPUS, ", sharded by DEEPSPEED"),
}
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
EACH_ENGINE = ["ddp", "fsdp2", pytest.param("zero3", marks=needs_deepspeed)]


def run_alone(spec):
    """Run a task in this process, as its worker would; the launcher would discard checkpoints of other launches."""
    AcceleratorState._reset_state()
    spec.workspace.mkdir(parents=True, exist_ok=True)
    (path := spec.workspace / "spec.json").write_text(spec.model_dump_json())
    importlib.import_module(spec.worker).main(str(path))
    AcceleratorState._reset_state()


def each_alone(inputs):
    """Yield a function that does a task of the inputs in this process, once, and returns its workspace.

    It has one thread, as each of two processes has. PPO samples: another order of summation may choose another token.
    """

    def run(name):
        spec = inputs.task(name, inputs.directory / "one")
        if not spec.workspace.exists():
            AcceleratorState._reset_state()  # it remembers the precision of the task before
            launch(spec, IN_PROCESS)
            AcceleratorState._reset_state()
        return spec.workspace

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(threads)


def stop_alone(spec):
    with pytest.MonkeyPatch.context() as patched, pytest.raises(TrainingError, match="stopped by SIGTERM after step 1"):
        patched.setattr(Interruption, "requested", lambda self, accelerator: True)
        run_alone(spec)


def launched(engine, tasks, directory):
    """Run tasks on two processes as `launch` would; return how that ended.

    Args:
        engine: Whose accelerate file; the number of processes, the device and the port are replaced.
        tasks: A spec, and whether its worker is stopped after a step.
        directory: Where to put the files that say so.
    """
    file, environment, _ = ENGINES[engine]
    config = yaml.safe_load((PROJECT / f"conf/accelerate/{file}.yaml").read_text())
    config |= {"num_processes": 2, "main_process_port": free_port()}
    (directory / "accelerate.yaml").write_text(yaml.safe_dump(config))
    listed = []
    for spec, stops in tasks:
        spec.workspace.mkdir(parents=True, exist_ok=True)
        (path := spec.workspace / "spec.json").write_text(spec.model_dump_json())
        listed.append([spec.worker, str(path), stops])
    (directory / "tasks.json").write_text(json.dumps(listed))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(directory / "accelerate.yaml")]
    paths = os.pathsep.join([str(PROJECT / "tests/support"), str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*command, "-m", "distributed_worker", str(directory / "tasks.json")],
        env=os.environ | environment | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
    )


LOSSES = {"loss", "eval_loss"}


def assert_same_training(found, expected):
    for rows, expected_rows in zip(log_of(found), log_of(expected), strict=True):
        assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
        for row, expected_row in zip(rows, expected_rows, strict=True):
            # Sharded, the KL is not measured; before the first update orders and correlations are those of noise.
            names = [name for name in row if name in LOSSES or (row["step"] and name.startswith("eval_"))]
            values, expected_values = ([values[name] for name in names] for values in (row, expected_row))
            assert values == pytest.approx(expected_values, rel=1e-3, abs=1e-4, nan_ok=True), names
    assert_same_weights(found / "model", expected / "model")


def assert_same_weights(found, expected):
    weights, expected_weights = (load_file(path / "model.safetensors") for path in (found, expected))
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=2e-5)


def refusal(workspace):
    return (workspace / "refused.txt").read_text()


def assert_resumed_after_step_1(said, workspace):
    *_, last = (task for task in said.split("begins: ") if task.startswith(str(workspace)))
    assert "step 1/6" not in last and "step 2/6" in last


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
