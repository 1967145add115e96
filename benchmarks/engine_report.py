"""What the engine's benchmark says: figures with their goals, a table of runs, a drawing."""

import json
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rao_kedro.files import replacing, write_text
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.training.forecast import matmul_peak

EPOCHS = 3  # over which the reference pass is spread
GOALS = {
    "speedup_vs_trl_default": "useful tokens/s, fp32, against TRL's defaults: >= 4.5",
    "speedup_vs_trl_best": f"useful tokens/s, our fastest against TRL's fastest, over {EPOCHS} epochs: >= 2.5",
    "speedup_vs_trl_batch_4": "the same against TRL's four pairs in one batch (no goal)",
    "memory_ratio_vs_trl_best": "peak memory, our fastest against TRL's fastest: <= 0.55",
    "memory_ratio_vs_trl_batch_4": "the same against TRL's four pairs in one batch (no goal)",
    "memory_ratio_checkpointed_vs_trl_batch_4": "the same, with activation checkpointing (no goal)",
    "speedup_k4_vs_trl_pairs": "K = 4 responses a prompt, against all six pairs through TRL's faster batch: >= 6",
    "speedup_k4_vs_trl_pairs_batch_4": "the same against TRL's batch of four pairs (no goal)",
    "mfu_fp32": "6 N per useful token and second, of the matmul peak measured in the same run: >= 0.70",
    "mfu_bf16": "the same in bf16, our fastest: >= 0.50",
    "loss_parity": "largest relative difference of the DPO loss from TRL's, step for step, fp32: <= 1e-3",
    "gradient_parity": "largest relative difference of a gradient from the padded path, RAO, float64: <= 1e-5",
    "log_prob_memory_growth_mb": "of the log-prob step of 8k tokens, vocabulary 49k to 128k, beyond the weights, MB: 0",
}

Runs = dict[str, list[dict[str, Any]]]


def seconds(run: dict[str, Any]) -> float:
    """Return what the steps of a run took, with its share of the reference pass."""
    return sum(run["step_seconds"]) + run["reference_seconds"] / EPOCHS


def tokens_per_second(run: dict[str, Any]) -> float:
    """Return the useful tokens per second of a run: a prompt counted once, whoever computes it how often."""
    return run["useful_tokens"] / seconds(run)


def summary(runs: Runs) -> dict[str, dict[str, float]]:
    """Return the figures that the goals are about, run by run compared."""

    def fastest(prefix: str) -> str:
        names = [name for name in runs if name.startswith(prefix)]
        return min(names, key=lambda name: statistics.median(map(seconds, runs[name])))

    def speedup(ours: str, theirs: str) -> list[float]:
        return [seconds(b) / seconds(a) for a, b in zip(runs[ours], runs[theirs], strict=True)]

    def memory(ours: str, theirs: str) -> list[float]:
        return [a["peak_gb"] / b["peak_gb"] for a, b in zip(runs[ours], runs[theirs], strict=True)]

    ours, best, batch_4 = fastest("ours"), fastest("TRL"), "TRL, precomputed, bf16, batch 4"
    compared = {
        "speedup_vs_trl_default": speedup("ours, fp32", "TRL, defaults, fp32"),
        "speedup_vs_trl_best": speedup(ours, best),
        "speedup_vs_trl_batch_4": speedup(ours, batch_4),
        "memory_ratio_vs_trl_best": memory(ours, best),
        "memory_ratio_vs_trl_batch_4": memory(ours, batch_4),
        "memory_ratio_checkpointed_vs_trl_batch_4": memory("ours, bf16, activation checkpointing", batch_4),
        "speedup_k4_vs_trl_pairs": speedup(fastest("K = 4: ours"), fastest("K = 4: TRL")),
        "speedup_k4_vs_trl_pairs_batch_4": speedup(fastest("K = 4: ours"), "K = 4: TRL, all pairs, bf16, batch 4"),
        "mfu_fp32": [run["mfu"] for run in runs["ours, fp32"]],
        "mfu_bf16": [run["mfu"] for run in runs[fastest("ours, bf16")]],
    }
    return {
        name: {"median": statistics.median(values), "spread": max(values) - min(values), "n": len(values)}
        for name, values in compared.items()
    }


def machine(model: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu, gpu = torch.device("cpu"), torch.cuda.is_available()
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "parameters": sum(p.numel() for p in load_causal_lm(model).parameters()),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "trl")},
        "matmul_peak_gflops": {
            "fp32": matmul_peak(cpu, torch.float32, 2.0) / 1e9,
            "bf16": matmul_peak(cpu, torch.bfloat16, 2.0) / 1e9,
        },
    }


def write_report(report: dict[str, Any], directory: Path) -> None:
    """Write `engine.json`, `engine.md` and `engine.png`."""
    directory.mkdir(exist_ok=True)
    write_text(directory / "engine.json", json.dumps(report, indent=2) + "\n")
    write_text(directory / "engine.md", markdown(report))
    draw(report["runs"], directory / "engine.png")


def markdown(report: dict[str, Any]) -> str:
    """Return the report as two tables."""
    peak = report["matmul_peak_gflops"]
    lines = [
        "# The training engine against TRL",
        "",
        f"`{report['command']}` on {report['machine']}, {report['gpu'] or 'no GPU'}; "
        f"matmul peak {peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f} bf16; "
        + ", ".join(f"{name} {number}" for name, number in report["versions"].items())
        + ".",
        "",
        "A step is 4 groups of real UltraFeedback rows, DPO, AdamW, all 135M parameters; K = 4 is RAO on four rated",
        "responses a prompt. Medians over runs that take turns; spread is the largest value less the smallest. The",
        "first step of a run warms up and is left out.",
        "",
        "![useful tokens per second and peak memory](engine.png)",
        "",
        "| figure | median | spread | n | what, and the goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, goal in GOALS.items():
        row = report.get(name)
        figures = f"{row['median']:.3g} | {row['spread']:.2g} | {row['n']}" if row else "not measured | | 0"
        lines.append(f"| {name} | {figures} | {goal} |")
    lines += [
        "",
        f"| run | useful tokens/s, over {EPOCHS} epochs | s a step | reference pass, s | MFU | peak GB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in report["runs"].items():
        speed, step, reference, peak_gb = (
            statistics.median(values)
            for values in zip(
                *(
                    (tokens_per_second(r), statistics.fmean(r["step_seconds"]), r["reference_seconds"], r["peak_gb"])
                    for r in runs
                ),
                strict=True,
            )
        )
        mfu = f"{statistics.median(r['mfu'] for r in runs):.0%}" if "mfu" in runs[0] else ""
        lines.append(f"| {name} | {speed:.0f} | {step:.2f} | {reference:.1f} | {mfu} | {peak_gb:.2f} |")
    return "\n".join(lines) + "\n"


def draw(runs: Runs, path: Path) -> None:
    """Draw speed and memory of every configuration: the median as a bar, each run as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.42 * len(runs) + 1.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    measures = {"useful tokens per second": tokens_per_second, "peak memory, GB": lambda run: run["peak_gb"]}
    for panel, (title, measure) in zip(panels, measures.items(), strict=True):
        for i, (name, of) in enumerate(runs.items()):
            values = [measure(run) for run in of]
            panel.barh(i, statistics.median(values), color="#c8c8c8" if "TRL" in name else "#4c72b0", height=0.7)
            panel.plot(values, [i] * len(values), ".", color="black", markersize=4)
            panel.annotate(
                f"{statistics.median(values):.3g}",
                (max(values), i),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        panel.set_title(title, loc="left")
        panel.margins(x=0.12)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(runs)), list(runs))
    panels[0].invert_yaxis()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:])
