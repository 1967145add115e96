"""The training engine against TRL's DPOTrainer: same rows, same token ids, same model, same optimizer step.

    make bench

Configurations alternate, each run in a process of its own; what is written are medians over the runs. Results go to
benchmarks/results/engine.{json,md,png}. It measures a CPU; `engine_gpu.py` is for GPUs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from engine_report import machine, summary, write_report
from engine_rows import rated_groups, ultrafeedback_groups

from rao_kedro.models.gguf import convert_gguf, packaged_gguf
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.objectives import LogProbBatch, make_objective
from rao_kedro.workers import CPU_MEMORY_SETTINGS

HERE = Path(__file__).parent
BATCH_SIZE = 4
VOCABULARIES = (49_152, 128_256)

# `kind` says which worker; the rest are its arguments.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ours, fp32": {"kind": "ours", "mixed_precision": "no"},
    "ours, bf16": {"kind": "ours", "mixed_precision": "bf16"},
    "ours, bf16, compiled": {"kind": "ours", "mixed_precision": "bf16", "compile": True},
    "ours, bf16_weights": {"kind": "ours", "mixed_precision": "bf16_weights"},
    "ours, bf16_weights, compiled": {"kind": "ours", "mixed_precision": "bf16_weights", "compile": True},
    "ours, bf16, activation checkpointing": {
        "kind": "ours",
        "mixed_precision": "bf16",
        "activation_checkpointing": True,
    },
    "TRL, defaults, fp32": {"kind": "trl", "bf16": False, "precompute": False, "batch": 4},
    "TRL, precomputed, bf16, batch 4": {"kind": "trl", "bf16": True, "precompute": True, "batch": 4},
    "TRL, precomputed, bf16, batch 1": {"kind": "trl", "bf16": True, "precompute": True, "batch": 1},
}
OF_FOUR_RESPONSES: dict[str, dict[str, Any]] = {
    "K = 4: ours, bf16": {"kind": "ours", "mixed_precision": "bf16", "objective": "rao"},
    "K = 4: TRL, all pairs, bf16, batch 4": {"kind": "trl", "bf16": True, "precompute": True, "batch": 4},
    "K = 4: TRL, all pairs, bf16, batch 1": {"kind": "trl", "bf16": True, "precompute": True, "batch": 1},
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
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        with packaged_gguf() as packaged:
            model = convert_gguf(packaged, None, work / "model")
        pairs = ultrafeedback_groups(options.ultrafeedback, model, options.groups)
        four, as_pairs = rated_groups(options.rated, model, options.groups // 2)
        long_run = ultrafeedback_groups(options.ultrafeedback, model, options.parity_steps)
        about = machine(model)
        parities = {
            "loss_parity": loss_parity(long_run, model, work),
            "gradient_parity": gradient_parity(model, four),
            "log_prob_memory_growth_mb": log_prob_memory_growth(),
        }
        runs = measure(CONFIGURATIONS, {"ours": pairs, "trl": pairs}, model, work, options.repeats)
        runs |= measure(OF_FOUR_RESPONSES, {"ours": four, "trl": as_pairs}, model, work, options.repeats)
    command = " ".join(["python benchmarks/engine.py", *sys.argv[1:]]) if sys.argv[1:] else "make bench"
    write_report({"command": command, **about, **parities, **summary(runs), "runs": runs}, options.results)


def measure(
    configurations: dict[str, dict[str, Any]],
    tables: dict[str, pd.DataFrame],
    model: Path,
    work: Path,
    repeats: int,
    batch_size: int = BATCH_SIZE,
) -> dict[str, list[dict[str, Any]]]:
    """Return what the workers measured, run by run; the configurations take turns."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for repeat in range(repeats):
        for name, configuration in configurations.items():
            path = work / f"{configuration['kind']}.parquet"
            tables[configuration["kind"]].to_parquet(path)
            request = {**configuration, "groups_path": path, "model_dir": model, "batch_size": batch_size}
            runs[name].append(run := ask_worker(request))
            mean = statistics.fmean(run["step_seconds"])
            print(f"{name}, run {repeat + 1}: {mean:.2f} s a step, {run['peak_gb']:.1f} GB", flush=True)
    return {name: [run | {"useful_tokens": useful_tokens(tables["ours"])} for run in of] for name, of in runs.items()}


def ask_worker(request: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker measured: ours in the environment that `launch` gives it, TRL in the plain one."""
    command = [sys.executable, str(HERE / "engine_workers.py"), json.dumps(request, default=str)]
    environment = {name: value for name, value in os.environ.items() if name not in CPU_MEMORY_SETTINGS}
    environment |= CPU_MEMORY_SETTINGS if request["kind"] == "ours" else {}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured: dict[str, Any] = json.loads(said.splitlines()[-1])
    return measured


def loss_parity(groups: pd.DataFrame, model: Path, work: Path) -> dict[str, float]:
    """Return the largest relative difference of both trainers' DPO losses, step for step, one group a step, in fp32."""
    both = {name: CONFIGURATIONS[name] for name in ("ours, fp32", "TRL, defaults, fp32")}
    both["TRL, defaults, fp32"] = {**both["TRL, defaults, fp32"], "batch": 1}
    runs = measure(both, {"ours": groups, "trl": groups}, model, work, repeats=1, batch_size=1)
    ours, theirs = (runs[name][0]["losses"] for name in both)
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    return {"median": max(differences), "spread": 0.0, "n": len(differences)}


def gradient_parity(model_dir: Path, groups: pd.DataFrame) -> dict[str, float]:
    """Return the largest relative difference of a parameter's gradient from the plain padded path: RAO, float64."""
    sys.path.append(str(HERE.parent / "tests/support"))
    from padded import padded_logps  # the oracle of the tests

    differences = []
    for k in (2, 4):
        batch = [
            TokenizedGroup(row.group_id, row.prompt_ids, [r[:24] for r in row.response_ids[:k]])
            for row in groups.head(2).itertuples()
        ]
        model, gradients = load_causal_lm(model_dir, torch.float64), []
        for logps in (LogProbModel(model)(pack_groups(batch), "detached"), padded_logps(model, batch)):
            model.zero_grad()
            rewards = torch.arange(2.0 * k, dtype=torch.float64).view(2, k)
            responses = LogProbBatch(
                policy=logps.responses,
                reference=logps.responses.detach() - 1.0,
                policy_prompt=logps.prompts,
                reference_prompt=logps.prompts.detach() + 1.0,
                rewards=rewards,
                lengths=torch.tensor([[len(r) for r in group.response_ids] for group in batch]),
                mask=torch.ones(2, k, dtype=torch.bool),
            )
            make_objective("rao", beta=0.1, log_z0=0.0)(responses).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        differences += [float((gradients[0][n] - g).norm() / g.norm()) for n, g in gradients[1].items()]
    return {"median": max(differences), "spread": 0.0, "n": len(differences)}


def log_prob_memory_growth() -> dict[str, float]:
    """Return by how many MB the log-prob step grows with the vocabulary, the weight and its gradients left out."""
    small, large = (
        ask_worker({"kind": "log_probs", "vocabulary": vocabulary, "tokens": 8192, "width": 576})["beyond_weights_mb"]
        for vocabulary in VOCABULARIES
    )
    return {"median": large - small, "spread": 0.0, "n": 1, "with_49k": small, "with_128k": large}


def useful_tokens(groups: pd.DataFrame) -> int:
    """Return the tokens of the groups, a prompt counted once."""
    return sum(len(p) + sum(map(len, r)) for p, r in zip(groups["prompt_ids"], groups["response_ids"], strict=True))


if __name__ == "__main__":
    main()
