"""The engine's benchmark runs: every configuration that a GPU would get, on a tiny model, and its report."""

import json

import pytest


@pytest.mark.slow
def test_the_gpu_part_of_the_benchmark_measures_every_configuration(tmp_path):
    import engine
    import engine_report
    from engine_rows import synthetic_groups

    runs = engine.measure_synthetic({}, synthetic_groups(4, n_prompt=12, n_response=6), tmp_path, repeats=1)
    assert runs.keys() == engine.ON_A_GPU.keys()
    for (run,) in runs.values():
        assert run["useful_tokens"] == 4 * (12 + 2 * 6)
        assert len(run["step_seconds"]) == 1 and run["losses"] == [pytest.approx(0.6931, abs=1e-2)]
    every = {name: of for of_gpu, of in runs.items() for name in (of_gpu, of_gpu.removeprefix("GPU, 1B: "))}
    every["ours, fp32"] = every["TRL, defaults, fp32"] = every["ours, bf16"]
    for name in engine.OF_FOUR_RESPONSES:
        every[name] = every["ours, bf16"]
    report = {
        "command": "a test",
        "machine": "a test",
        "gpu": None,
        "versions": {},
        "matmul_peak_gflops": {"fp32": 1.0, "bf16": 1.0},
        **engine_report.summary(every),
        "runs": every,
    }
    engine_report.write_report(report, tmp_path / "results")
    assert json.loads((tmp_path / "results" / "engine.json").read_text())["mfu_gpu"]["n"] == 1
    lines = (tmp_path / "results" / "engine.md").read_text().splitlines()
    assert any(line.startswith("| speedup_vs_trl_best_gpu | ") and "not measured" not in line for line in lines)
    assert any(line.startswith("| loss_parity | not measured") for line in lines)
    assert (tmp_path / "results" / "engine.png").stat().st_size > 10_000
