"""The training engine against TRL's DPOTrainer: same rows, same token ids, same model, same optimizer step.

    make bench

Configurations alternate, each run in a process of its own; what is written are medians over the runs. Results go to
benchmarks/results/engine.{json,md,png}.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from engine_rows import rated_groups, ultrafeedback_groups

from rao_kedro.models.gguf import convert_gguf, find_packaged_gguf
from rao_kedro.training.forecast import matmul_peak

HERE = Path(__file__).parent
GROUPS_PER_STEP = 4
EPOCHS = 3  # over which the reference pass is spread

# `kind` says which worker; the rest are its arguments.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ours, fp32": {"kind": "ours", "mixed_precision": "no", "objective": "dpo"},
    "ours, bf16": {"kind": "ours", "mixed_precision": "bf16", "objective": "dpo"},
    "TRL, defaults, fp32": {"kind": "trl", "bf16": False, "precompute": False, "batch": 4},
    "TRL, precomputed, fp32": {"kind": "trl", "bf16": False, "precompute": True, "batch": 4},
    "TRL, precomputed, bf16": {"kind": "trl", "bf16": True, "precompute": True, "batch": 4},
    "TRL, precomputed, bf16, batch 1": {"kind": "trl", "bf16": True, "precompute": True, "batch": 1},
}
OF_FOUR_RESPONSES: dict[str, dict[str, Any]] = {
    "ours, K = 4, bf16": {"kind": "ours", "mixed_precision": "bf16", "objective": "rao"},
    "TRL, all pairs, bf16": {"kind": "trl", "bf16": True, "precompute": True, "batch": 4},
}


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ultrafeedback", type=Path, default=Path("../shared/data/ultrafeedback/train.jsonl.gz"))
    rated = Path("../shared/data/rated_responses/tulu2_dpo_13b_bon16.jsonl.gz")
    parser.add_argument("--rated", type=Path, default=rated)
    parser.add_argument("--groups", type=int, default=16, help="prompt groups of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each configuration")
    parser.add_argument("--parity-steps", type=int, default=20, help="steps whose losses are compared")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        model = convert_gguf(find_packaged_gguf(), None, work / "model")
        pairs = ultrafeedback_groups(options.ultrafeedback, model, options.groups)
        four, as_pairs = rated_groups(options.rated, model, options.groups // 2)
        result = {
            "speed": measure(CONFIGURATIONS, {"ours": pairs, "trl": pairs}, model, work, options.repeats),
            "four_responses": measure(OF_FOUR_RESPONSES, {"ours": four, "trl": as_pairs}, model, work, options.repeats),
        }
    print(json.dumps(result))


def measure(
    configurations: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame], model: Path, work: Path, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Return what the workers measured, run by run; the configurations take turns."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for repeat in range(repeats):
        for name, configuration in configurations.items():
            path = work / f"{configuration['kind']}.parquet"
            tables[configuration["kind"]].to_parquet(path)
            request = {**configuration, "groups_path": path, "model_dir": model, "groups_per_step": GROUPS_PER_STEP}
            command = [sys.executable, str(HERE / "engine_workers.py"), json.dumps(request, default=str)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            runs[name].append(json.loads(said.splitlines()[-1]))
            print(f"{name}, run {repeat + 1}: {statistics.fmean(runs[name][-1]['step_seconds']):.1f} s a step")
    return dict(runs)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = torch.device("cpu")
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "trl")},
        "matmul_peak_gflops": {
            "fp32": matmul_peak(cpu, torch.float32, 2.0) / 1e9,
            "bf16": matmul_peak(cpu, torch.bfloat16, 2.0) / 1e9,
        },
    }


if __name__ == "__main__":
    main()
