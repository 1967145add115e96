"""The training engine against TRL's DPOTrainer: same rows, same token ids, same model, same optimizer step.

    make bench

Configurations alternate, each run in a process of its own; what is written are medians over the runs. Results go to
benchmarks/results/engine.{json,md}.
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
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import PackedLogProbs, padded_logps
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.objectives import GroupLogps, make_objective
from rao_kedro.training.forecast import matmul_peak

HERE = Path(__file__).parent
RESULTS = HERE / "results"
BETA = 0.1
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
        long_run = ultrafeedback_groups(options.ultrafeedback, model, options.parity_steps)
        about = machine(model)
        parity = loss_parity(long_run, model, work)
        gradients = gradient_parity(model, four)
        speed = measure(CONFIGURATIONS, {"ours": pairs, "trl": pairs}, model, work, options.repeats)
        of_four = measure(OF_FOUR_RESPONSES, {"ours": four, "trl": as_pairs}, model, work, options.repeats)
    results = summary(speed, of_four, useful_tokens(pairs), about)
    results |= {"loss_parity": parity, "gradient_parity": gradients}
    RESULTS.mkdir(exist_ok=True)
    report = {"command": "make bench", **about, **results, "runs": {**speed, **of_four}}
    (RESULTS / "engine.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "engine.md").write_text(markdown(report))
    print(json.dumps({name: results[name]["median"] for name in results}))


def measure(
    configurations: dict[str, dict[str, Any]],
    tables: dict[str, pd.DataFrame],
    model: Path,
    work: Path,
    repeats: int,
    groups_per_step: int = GROUPS_PER_STEP,
) -> dict[str, list[dict[str, Any]]]:
    """Return what the workers measured, run by run; the configurations take turns."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for repeat in range(repeats):
        for name, configuration in configurations.items():
            path = work / f"{configuration['kind']}.parquet"
            tables[configuration["kind"]].to_parquet(path)
            request = {**configuration, "groups_path": path, "model_dir": model, "groups_per_step": groups_per_step}
            command = [sys.executable, str(HERE / "engine_workers.py"), json.dumps(request, default=str)]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs[name].append(run := json.loads(said.splitlines()[-1]))
            mean = statistics.fmean(run["step_seconds"])
            print(f"{name}, run {repeat + 1}: {mean:.1f} s a step, {run['peak_gb']:.1f} GB", flush=True)
    return dict(runs)


def loss_parity(groups: pd.DataFrame, model: Path, work: Path) -> dict[str, float]:
    """Return the largest relative difference of both trainers' DPO losses, step for step, one group a step, in fp32."""
    both = {name: CONFIGURATIONS[name] for name in ("ours, fp32", "TRL, defaults, fp32")}
    both["TRL, defaults, fp32"] = {**both["TRL, defaults, fp32"], "batch": 1}
    runs = measure(both, {"ours": groups, "trl": groups}, model, work, repeats=1, groups_per_step=1)
    ours, theirs = (runs[name][0]["losses"] for name in both)
    differences = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
    return {"median": max(differences), "spread": 0.0, "n": len(differences)}


def gradient_parity(model_dir: Path, groups: pd.DataFrame) -> dict[str, float]:
    """Return the largest relative difference of a parameter's gradient from the plain padded path: RAO, float64."""
    differences = []
    for k in (2, 4):
        batch = [
            TokenizedGroup(row.group_id, row.prompt_ids, [r[:24] for r in row.response_ids[:k]])
            for row in groups.head(2).itertuples()
        ]
        model, gradients = load_causal_lm(model_dir, torch.float64), []
        for logps in (PackedLogProbs(model)(pack_groups(batch), "detached"), padded_logps(model, batch)):
            model.zero_grad()
            rewards = torch.arange(2.0 * k, dtype=torch.float64).view(2, k)
            responses = GroupLogps(
                policy=logps.responses,
                reference=logps.responses.detach() - 1.0,
                policy_prompt=logps.prompts,
                reference_prompt=logps.prompts.detach() + 1.0,
                rewards=rewards,
                lengths=torch.tensor([[len(r) for r in group.response_ids] for group in batch]),
                mask=torch.ones(2, k, dtype=torch.bool),
            )
            make_objective("rao", beta=BETA, log_z0=0.0)(responses).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        differences += [float((gradients[0][n] - g).norm() / g.norm()) for n, g in gradients[1].items()]
    return {"median": max(differences), "spread": 0.0, "n": len(differences)}


def useful_tokens(groups: pd.DataFrame) -> int:
    """Return the tokens of the groups, a prompt counted once."""
    return sum(len(p) + sum(map(len, r)) for p, r in zip(groups["prompt_ids"], groups["response_ids"], strict=True))


def summary(
    speed: dict[str, list[dict[str, Any]]],
    of_four: dict[str, list[dict[str, Any]]],
    useful: int,
    about: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """Return the figures that the goals are about, run by run compared."""

    def seconds(run: dict[str, Any], amortised: bool = True) -> float:
        return sum(run["step_seconds"]) + (run["reference_seconds"] / EPOCHS if amortised else 0.0)

    def fastest(prefix: str) -> str:
        names = [name for name in speed if name.startswith(prefix)]
        return min(names, key=lambda name: statistics.median(map(seconds, speed[name])))

    ours, best = fastest("ours"), fastest("TRL")
    compared = {
        "speedup_vs_trl_default": [
            seconds(theirs, amortised=False) / seconds(mine)
            for mine, theirs in zip(speed["ours, fp32"], speed["TRL, defaults, fp32"], strict=True)
        ],
        "speedup_vs_trl_best": [seconds(b) / seconds(a) for a, b in zip(speed[ours], speed[best], strict=True)],
        "memory_ratio_vs_trl_best": [
            a["peak_gb"] / b["peak_gb"] for a, b in zip(speed[ours], speed[best], strict=True)
        ],
        "speedup_k4_vs_trl_pairs": [seconds(b) / seconds(a) for a, b in zip(*of_four.values(), strict=True)],
    }
    for name, dtype in (("ours, fp32", "fp32"), ("ours, bf16", "bf16")):
        peak = about["matmul_peak_gflops"][dtype] * 1e9
        compared[f"mfu_{dtype}"] = [
            6 * about["parameters"] * useful / seconds(run, amortised=False) / peak for run in speed[name]
        ]
    return {
        name: {"median": statistics.median(values), "spread": max(values) - min(values), "n": len(values)}
        for name, values in compared.items()
    }


def machine(model: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = torch.device("cpu")
    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "parameters": sum(p.numel() for p in load_causal_lm(model).parameters()),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "trl")},
        "matmul_peak_gflops": {
            "fp32": matmul_peak(cpu, torch.float32, 2.0) / 1e9,
            "bf16": matmul_peak(cpu, torch.bfloat16, 2.0) / 1e9,
        },
    }


GOALS = {
    "speedup_vs_trl_default": "useful tokens/s, fp32, against TRL's defaults: >= 4.5",
    "speedup_vs_trl_best": f"the faster of ours against the fastest of TRL's, over {EPOCHS} epochs: >= 3.5",
    "memory_ratio_vs_trl_best": "peak memory of the same two: <= 0.33",
    "speedup_k4_vs_trl_pairs": "four responses a prompt, against all six pairs through TRL: >= 6",
    "mfu_fp32": "6 N per useful token and second, of the matmul peak: >= 0.70",
    "mfu_bf16": ">= 0.55",
    "loss_parity": "largest relative difference of the DPO loss from TRL's, fp32: <= 1e-3",
    "gradient_parity": "largest relative difference of a gradient from the padded path, float64: <= 1e-5",
}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as two tables."""
    peak = report["matmul_peak_gflops"]
    lines = [
        "# The training engine against TRL",
        "",
        f"`{report['command']}` on {report['machine']}; "
        f"matmul peak {peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f} bf16; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        + ". A step is 4 groups of real UltraFeedback rows, DPO, AdamW, all 135M parameters.",
        "",
        "| figure | median | spread | n | what, and the goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, goal in GOALS.items():
        row = report[name]
        lines.append(f"| {name} | {row['median']:.3g} | {row['spread']:.2g} | {row['n']} | {goal} |")
    lines += ["", "| run | s a step, median | reference pass, s | peak GB |", "| --- | --- | --- | --- |"]
    for name, runs in report["runs"].items():
        step, reference, peak_gb = (
            statistics.median(values)
            for values in zip(
                *((statistics.fmean(r["step_seconds"]), r["reference_seconds"], r["peak_gb"]) for r in runs),
                strict=True,
            )
        )
        lines.append(f"| {name} | {step:.2f} | {reference:.1f} | {peak_gb:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
