"""Speed, the time left, and what a run will need."""

import json
from types import SimpleNamespace

import torch

from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.progress import listen_to_progress
from rao_kedro.training.forecast import flops_per_token, matmul_peak, saved_bytes
from rao_kedro.training.progress import MetricsLog, Progress

GROUPS = [TokenizedGroup(f"g{i}", [1, 2, 3, 4], [[5, 6, 7], [8, 9, 2]]) for i in range(4)]


def test_a_step_reports_useful_tokens_mfu_and_the_time_left_with_every_pass_counted(tmp_path, caplog):
    """4 groups of 10 tokens (14 as rows), 2 epochs of 2 steps with 3 passes: 12 steps of 20 tokens, 2 seconds each."""
    task = SimpleNamespace(train_groups=GROUPS, passes_per_step=3)
    log = MetricsLog(tmp_path / "log.jsonl", resume_at=0, is_main=True)
    caplog.set_level("INFO", "rao_kedro")
    with listen_to_progress((heard := []).append):
        progress = Progress(task, epochs=2, done_steps=0, n_steps=12, log=log, flops_per_token=0.05, what="rao")
        for step in range(1, 13):
            progress.report(step, step / 6, GROUPS[:2], seconds=2.0, peak_bytes=3 * 10**9, metrics={"loss": 1.0})
    assert [(p.what, p.done, p.total, p.unit) for p in heard] == [("training rao", i, 12, "steps") for i in range(13)]
    assert heard[0].rate is None and heard[-1].rate == 10
    said = caplog.messages
    assert said[0].endswith("10 useful tokens/s  MFU 50%  3.0 GB  22 s left") and said[-1].endswith(" 0 s left")
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert (row["useful_tokens_per_second"], row["tokens_per_second"]) == (10, 14)
    assert (row["mfu"], row["peak_memory_gb"]) == (0.5, 3.0)


def test_a_log_whose_last_line_a_kill_cut_is_taken_up(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    log = MetricsLog(path, resume_at=2, is_main=True)
    log.write(3, loss=0.5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_bytes_that_a_forward_pass_keeps_are_counted_once_and_without_parameters():
    """tanh(x W) keeps x for the weight's gradient (4 x 8 floats) and its own output (4 x 6 floats)."""
    layer, x, kept = torch.nn.Linear(8, 6, bias=False), torch.randn(4, 8, requires_grad=True), []
    assert saved_bytes(lambda: kept.append(torch.tanh(layer(x)).sum())) == 4 * (4 * 8 + 4 * 6)


def test_a_frozen_parameter_costs_four_flops_a_token_and_a_trained_one_six():
    layer = torch.nn.Linear(8, 6)
    layer.bias.requires_grad_(False)
    assert flops_per_token(layer) == 6 * 48 + 4 * 6


def test_the_matmul_peak_is_that_of_the_fastest_product(monkeypatch):
    """Products of 1024 x 1024 matrices, 2 * 1024^3 FLOPs each, that take 3, 1 and 2 s of the 5 s that are allowed."""
    clock = iter([0.0, 0.0, 3.0, 3.0, 4.0, 4.0, 6.0])
    monkeypatch.setattr("rao_kedro.training.forecast.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert matmul_peak(torch.device("cpu"), torch.float32, seconds=5.0) == 2 * 1024**3 / 1.0
    assert next(clock, None) is None


def test_the_forecast_counts_groups_tokens_steps_and_memory(tmp_path, tiny_checkpoint, monkeypatch):
    """Of memory: what is in use already, and 12 bytes per parameter for gradients and Adam's moments."""
    from accelerate import Accelerator
    from groups import parameters, write_groups

    from rao_kedro.config.specs import TrainingSpec
    from rao_kedro.training.forecast import forecast
    from rao_kedro.training.tasks.sft import SupervisedFinetuning

    training = parameters(epochs=3, batch_size=3, max_tokens_per_batch=40)
    groups = write_groups(tmp_path / "groups.parquet", 12)
    task = SupervisedFinetuning(
        TrainingSpec(workspace=tmp_path, model_dir=tiny_checkpoint, groups_path=groups, training=training)
    )
    module = task.load()
    states = 12 * sum(parameter.numel() for parameter in module.parameters())
    monkeypatch.setattr("rao_kedro.training.forecast.memory_in_use", lambda device: 7 * 10**9 - states)
    said = forecast(task, Accelerator(), module, training)
    tokens = sum(group.n_tokens for group in task.train_groups)
    assert said.startswith(f"8 groups of {tokens} tokens, 9 steps, packs of at most ")
    assert said.endswith(" tokens; about 7.0 GB of memory at the peak")
    assert all(parameter.grad is None for parameter in module.parameters())
