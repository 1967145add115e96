"""The engine's benchmark on a GPU: its phases run at toy size, it survives those that fail, and its report is right."""

import argparse
import json

import engine_gpu
import pytest
from engine_gpu import Phase, Runner


def options(**changes):
    return argparse.Namespace(**({"tiny": True, "minutes": 10.0, "flash_pref": None} | changes))


def test_a_step_is_counted_by_the_tokens_of_its_groups_however_many_pairs_are_computed():
    """Groups of 8 + 8 x 4 tokens, 4 a step; TRL's pairs of 16 and 112 rows are those of the same 4 groups."""
    tables = engine_gpu.tables(tiny=True)
    steps = {phase.name: phase for phase in engine_gpu.phases() if phase.name.startswith("K = 8")}
    useful = {name: engine_gpu.useful_tokens_per_step(phase, tables) for name, phase in steps.items()}
    assert useful == {
        "K = 8: ours, bf16 weights, compiled": 4 * 40,
        "K = 8: TRL, four disjoint pairs": 4 * 40,
        "K = 8: TRL, all 28 pairs": 2 * 40,
    }


@pytest.mark.slow
def test_a_phase_that_fails_is_slow_or_lacks_a_package_says_so(tmp_path):
    runner = Runner(options(), tmp_path)
    assert runner.measure(Phase("a", {"kind": "gpu_tests"}, needs=("no_such_package",))) == {
        "skipped": "not installed: no_such_package"
    }
    failed = runner.measure(Phase("b", {"kind": "attention_memory", "nonsense": 1}, None, None))["failed"]
    assert "TypeError" in failed and "nonsense" in failed
    assert runner.measure(Phase("c", {"kind": "log_probs"}, seconds=0)) == {"failed": "stopped after 0 s"}
    runner.end = 0
    assert runner.measure(Phase("d", {"kind": "gpu_tests"})) == {"skipped": "the 10 minutes were over"}


def test_without_a_gpu_the_report_says_that_nothing_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engine_gpu, "find_card", lambda: None)
    monkeypatch.setattr("sys.argv", ["engine_gpu.py", "--results", str(tmp_path)])
    engine_gpu.main()
    report = (tmp_path / "engine_gpu.md").read_text()
    assert report.count("not measured: no GPU was at hand") == len(engine_gpu.phases())
    assert json.loads((tmp_path / "engine_gpu.json").read_text())["card"] is None


def test_figures_compare_the_fastest_runs():
    def run(speed, memory=1.0, reference=1.0, **more):
        return {
            "step_ms": 1.0,
            "useful_tokens_per_second": speed,
            "peak_gb": memory,
            "reference_seconds": reference,
            **more,
        }

    found = {
        "K = 2: ours, bf16 weights, compiled": run(200.0, memory=3.0, reference=2.0, mfu=0.5),
        "K = 2: ours, autocast, compiled": run(100.0, mfu=0.3),
        "K = 2: TRL, batch 4": run(80.0, memory=6.0, reference=3.0),
        "K = 2: TRL, batch 4, Liger": run(100.0, memory=4.0, reference=3.0),
        "K = 8: ours, bf16 weights, compiled": run(300.0),
        "K = 8: TRL, all 28 pairs": run(10.0),
        "K = 8: TRL, four disjoint pairs": {"failed": "OutOfMemoryError"},
        "start": {"first_step_again_seconds": 9.0},
    }
    assert engine_gpu.summary(found) == {
        "speedup_k2": 2.0,
        "speedup_k8_vs_all_pairs": 30.0,
        "memory_ratio_k2": 0.75,
        "reference_pass_speedup": 1.5,
        "mfu_1b": 0.5,
        "first_step_again_seconds": 9.0,
    }
    report = engine_gpu.markdown({"command": "x", "card": "y", "date": "z", "versions": {}, "phases": found})
    assert "| speedup_k2 | 2 |" in report and "| speedup_k8_vs_disjoint_pairs | not measured |" in report
    assert "| K = 8: TRL, four disjoint pairs | OutOfMemoryError |" in report


@pytest.mark.slow
def test_both_trainers_are_measured_at_toy_size(tmp_path):
    runner = Runner(options(), tmp_path)
    for phase in engine_gpu.phases():
        if phase.name in ("K = 8: ours, bf16 weights, compiled", "K = 2: TRL, batch 1", "8B, LoRA: TRL, batch 2"):
            measured = runner.measure(phase)
            assert measured["useful_tokens_per_second"] > 0 and measured["reference_seconds"] > 0, measured
            steps = len(runner.tables[phase.table]) // phase.batch_size
            assert len(measured["losses"]) == len(measured["step_seconds"]) == steps
