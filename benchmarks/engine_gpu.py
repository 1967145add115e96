"""The training engine on one GPU against TRL: speed, memory, starts; then the tests of tests/gpu.

    make bench-gpu
    python benchmarks/engine_gpu.py --list
    python benchmarks/engine_gpu.py --phases "K = 2" tests

Every phase is a process of its own, fails alone, and prints a line; its result is kept at once. Phases that do not fit
into `--minutes` are skipped, and the report says so. Results go to benchmarks/results/engine_gpu.{json,md}. Weights are
random. It needs torch, transformers, accelerate, peft, pandas, pyarrow and pydantic; TRL and datasets for the
comparison; liger_kernel, flash_attn and flash_pref (`--flash-pref`) are measured where they are. datasets
pickles functions of packages that lie outside of site-packages, which fails: install them there. `--tiny` runs every
phase at toy size, also on a CPU, compiles nothing, and keeps nothing.
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
LLAMA = {"vocab_size": 128_256, "initializer_range": 0.02, "max_position_embeddings": 65_536, "head_dim": 64}
LLAMA_1B = LLAMA | {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
LLAMA_8B = LLAMA | {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "liger-kernel", "flash-attn", "flash-pref", "triton")

OURS = {"kind": "ours", "mixed_precision": "bf16_weights", "compile": True}
EAGER = OURS | {"compile": False}
AUTOCAST = OURS | {"mixed_precision": "bf16"}
TRL = {"kind": "trl", "bf16": True, "precompute": True, "batch": 4}


@dataclass(frozen=True)
class Phase:
    """One measurement.

    Attributes:
        name: Its name; phases with the same beginning, up to a colon, are compared.
        request: What the worker is asked.
        table: The groups that it reads.
        batch_size: Prompt groups (for TRL: pairs) of an optimizer step.
        architecture: Of the random Llama.
        needs: Packages without which it is skipped.
        seconds: At most; then it is stopped.
    """

    name: str
    request: dict[str, Any]
    table: str | None = "K = 2"
    batch_size: int | None = 4
    architecture: dict[str, Any] = field(default_factory=lambda: LLAMA_1B)
    needs: tuple[str, ...] = ()
    seconds: int = 75


def phases() -> list[Phase]:
    """Return all phases: the figures with goals first, the tests last."""
    trl, lora = ("trl", "datasets"), {"lora": {"rank": 16, "alpha": 32}}
    ultrafeedback: dict[str, Any] = {"table": "UltraFeedback lengths", "batch_size": 32}
    sixteen: dict[str, Any] = {"table": "K = 2, long", "batch_size": 16}
    of_8b: dict[str, Any] = {"architecture": LLAMA_8B, "table": "K = 2, short", "seconds": 110}
    head = {"heads": 32, "key_heads": 8, "width": 64, "sizes": [8192, 16_384, 32_768], "prompt": 1024, "response": 512}
    return [
        Phase("K = 2: ours, bf16 weights, compiled", OURS),
        Phase("K = 2: TRL, batch 4", TRL, needs=trl),
        Phase("K = 2: TRL, batch 4, Liger", TRL | {"use_liger_kernel": True}, needs=(*trl, "liger_kernel")),
        Phase("K = 2: ours, autocast, compiled", AUTOCAST),
        Phase("K = 2: TRL, batch 4, compiled", TRL | {"torch_compile": True}, needs=trl),
        Phase("K = 8: ours, bf16 weights, compiled", OURS | {"objective": "rao"}, "K = 8"),
        Phase("K = 8: TRL, four disjoint pairs", TRL | {"batch": 8}, "K = 8, disjoint", 16, needs=trl),
        Phase("K = 8: TRL, all 28 pairs", TRL | {"batch": 8}, "K = 8, all pairs", 56, needs=trl),
        Phase("UltraFeedback lengths: ours, packs of 8k", OURS | {"max_tokens_per_batch": 8192}, **ultrafeedback),
        Phase("UltraFeedback lengths: TRL, batch 8", TRL | {"batch": 8}, needs=trl, **ultrafeedback),
        Phase("UltraFeedback lengths: ours, packs of 32k", OURS | {"max_tokens_per_batch": 32_768}, **ultrafeedback),
        Phase("start", {"kind": "start", "mixed_precision": "bf16_weights", "max_tokens_per_batch": 8192}),
        Phase("attention memory of a 32k pack", {"kind": "attention_memory", **head}, None, None),
        Phase("8B, LoRA: ours, bf16 weights, compiled", OURS | lora, **of_8b),
        Phase("8B, LoRA: TRL, batch 2", TRL | lora | {"batch": 2}, needs=trl, **of_8b),
        Phase("8B, LoRA: TRL, batch 4", TRL | lora, needs=trl, **of_8b),
        Phase(
            "annotation",
            {"kind": "annotation", "max_tokens_per_batch": 32_768, "batches": [8, 32]},
            "UltraFeedback lengths",
            None,
        ),
        Phase("K = 2: ours, bf16 weights, eager", EAGER),
        Phase("K = 2: flash-pref, batch 4", {"kind": "flash_pref", "batch": 4, "steps": 6}, needs=("flash_pref",)),
        Phase(
            "K = 2: TRL, batch 4, flash attention 2",
            TRL | {"attention": "flash_attention_2"},
            needs=(*trl, "flash_attn"),
        ),
        Phase("K = 2, 16 groups a step: ours, packs of 8k", OURS | {"max_tokens_per_batch": 8192}, **sixteen),
        Phase("K = 2, 16 groups a step: ours, packs of 32k", OURS | {"max_tokens_per_batch": 32_768}, **sixteen),
        Phase("K = 2: ours, activation checkpointing", OURS | {"activation_checkpointing": True}),
        Phase("K = 2: TRL, batch 1", TRL | {"batch": 1}, needs=trl),
        Phase("log-prob candidates", {"kind": "log_probs"}, None, None, seconds=115),
        Phase("tests", {"kind": "gpu_tests"}, None, None, needs=("pytest",), seconds=240),
    ]


def tables(tiny: bool) -> dict[str, pd.DataFrame]:
    """Return the groups of all phases: random tokens, of fixed lengths or of lengths like UltraFeedback's."""
    rng, scale, few = random.Random(0), 64 if tiny else 1, 2 if tiny else 1
    highest = 500 if tiny else 128_000

    def group(prompt: int, responses: list[int]) -> tuple[list[int], list[list[int]]]:
        sizes = (max(2, n // scale) for n in (prompt, *responses))
        first, *others = [[rng.randrange(3, highest) for _ in range(n)] for n in sizes]
        return first, others

    def like_ultrafeedback() -> tuple[int, list[int]]:
        responses = [min(1024, max(8, int(rng.lognormvariate(5.6, 0.6)))) for _ in range(2)]
        return min(1500, max(12, int(rng.lognormvariate(4.9, 0.8)))), responses

    of_eight = [group(512, [256] * 8) for _ in range(32 // few)]

    def as_pairs(pairs: list[tuple[int, int]], n: int) -> list[tuple[list[int], list[list[int]]]]:
        return [(prompt, [responses[i], responses[j]]) for prompt, responses in of_eight[:n] for i, j in pairs]

    return {
        "K = 2": table([group(1024, [512] * 2) for _ in range(32 // few)]),
        "K = 2, short": table([group(1024, [512] * 2) for _ in range(24 // few)]),
        "K = 2, long": table([group(1024, [512] * 2) for _ in range(96 // few)]),
        "K = 8": table(of_eight),
        "K = 8, disjoint": table(as_pairs([(0, 1), (2, 3), (4, 5), (6, 7)], 24 // few)),
        "K = 8, all pairs": table(as_pairs([*combinations(range(8), 2)], 6)),
        "UltraFeedback lengths": table([group(*like_ultrafeedback()) for _ in range(256 // (4 * few if tiny else 1))]),
    }


def table(groups: list[tuple[list[int], list[list[int]]]]) -> pd.DataFrame:
    """Return groups as a table of tokenised groups, with the responses rated in ascending order."""
    return pd.DataFrame(
        {
            "group_id": f"g{i}",
            "split": "train",
            "prompt_ids": prompt,
            "response_ids": responses,
            "ratings": [float(j) for j in range(len(responses))],
            "rewards": [float(j) for j in range(len(responses))],
            "chosen": len(responses) - 1,
            "rejected": 0,
        }
        for i, (prompt, responses) in enumerate(groups)
    )


def useful_tokens_per_step(phase: Phase, of: dict[str, pd.DataFrame]) -> float | None:
    """Return a step's tokens with each prompt counted once, whatever is computed; None where there are no steps."""
    if phase.table is None or phase.batch_size is None or phase.request["kind"] == "start":
        return None
    groups, n = of["K = 8" if phase.table.startswith("K = 8") else phase.table], phase.batch_size
    n = {"K = 8, disjoint": n / 4, "K = 8, all pairs": n / 28}.get(phase.table, n)
    tokens = [len(p) + sum(map(len, r)) for p, r in zip(groups["prompt_ids"], groups["response_ids"], strict=True)]
    return statistics.fmean(tokens) * n


def python_path(work: Path) -> dict[str, str]:
    """Return the environment in which workers find this checkout, also where the package is not installed."""
    paths = [str(HERE.parent / "src"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        version("rao_kedro")
    except PackageNotFoundError:
        about = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
        metadata = work / f"installed/rao_kedro-{about['version']}.dist-info/METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: rao_kedro\nVersion: {about['version']}\n")
        paths.append(str(work / "installed"))
    return {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


class Runner:
    """Runs phases within a time."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        """Write the tables and a stand-in for a checkpoint: its tokenizer is read, its weights are not."""
        self.options, self.work, self.end = options, work, time.monotonic() + 60 * options.minutes
        self.tables = tables(options.tiny)
        for name, groups in self.tables.items():
            groups.to_parquet(work / f"{name}.parquet")
        self.environment = os.environ | python_path(work)
        code = "import sys; from pathlib import Path; from rao_kedro.models.tiny import build_tiny_checkpoint"
        code += "; build_tiny_checkpoint(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(work / "model")], env=self.environment, check=True)

    def measure(self, phase: Phase) -> dict[str, Any]:
        """Return what a phase measured, or why it was skipped or failed."""
        flash_pref = self.options.flash_pref
        there = {"flash_pref"} if flash_pref else set()
        missing = [name for name in phase.needs if name not in there and importlib.util.find_spec(name) is None]
        left = self.end - time.monotonic()
        if missing:
            return {"skipped": f"not installed: {', '.join(missing)}"}
        if left < 15:
            return {"skipped": f"the {self.options.minutes:g} minutes were over"}
        request = self.request(phase)
        command, environment = [sys.executable, str(HERE / "engine_gpu_workers.py")], self.environment
        if request["kind"] == "flash_pref":
            command[1] = str(HERE / "engine_flash_pref.py")
            environment = environment | ({"PYTHONPATH": str(flash_pref)} if flash_pref else {})
        limit = min(left, phase.seconds * (10 if self.options.tiny else 1))
        with tempfile.TemporaryFile("w+") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                [*command, json.dumps(request)], env=environment, stdout=output, stderr=output, start_new_session=True
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return {"failed": f"stopped after {limit:.0f} s"}
            output.seek(0)
            lines = [line for line in output.read().splitlines() if line.strip()]
        took = {"phase_seconds": round(time.monotonic() - started, 1)}
        if status != 0:
            said = [line for line in lines if "Error" in line] or lines or [f"exit status {status}"]
            return {"failed": said[-1][:300]} | took
        return json.loads(lines[-1]) | took

    def request(self, phase: Phase) -> dict[str, Any]:
        """Return what the phase's worker is asked."""
        request, tiny = {**phase.request}, self.options.tiny
        if request["kind"] in ("gpu_tests", "log_probs"):
            return request | {"tiny": tiny}
        if request["kind"] == "attention_memory":
            small = {"heads": 4, "key_heads": 2, "width": 16, "sizes": [64, 128, 256], "prompt": 16, "response": 8}
            return request | (small if tiny else {})
        request |= {"groups_path": str(self.work / f"{phase.table}.parquet")}
        request["architecture"] = phase.architecture | (TINY if tiny else {})
        if tiny:
            request = {key: value for key, value in request.items() if "compile" not in key}
        if request["kind"] in ("ours", "trl"):
            request |= {"batch_size": phase.batch_size, "warmup": 3}
        if request["kind"] in ("ours", "trl", "start"):
            request["model_dir"] = str(self.work / "model")
        if (useful := useful_tokens_per_step(phase, self.tables)) is not None:
            request["useful_tokens_per_step"] = useful
        return request


def main() -> None:
    """Measure the chosen phases, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the phases")
    parser.add_argument("--phases", nargs="*", metavar="BEGINNING", help="only phases whose names begin so")
    parser.add_argument("--minutes", type=float, default=8.0, help="later phases are skipped")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, also on a CPU; keeps nothing")
    parser.add_argument("--flash-pref", type=Path, help="a folder with flash_pref and transformers 4.51")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    chosen = [p for p in phases() if options.phases is None or any(p.name.startswith(b) for b in options.phases)]
    if options.list:
        print("\n".join(phase.name for phase in chosen))
        return
    card = find_card()
    report: dict[str, Any] = {"command": " ".join(["python benchmarks/engine_gpu.py", *sys.argv[1:]]), "card": card}
    report |= {"date": date.today().isoformat(), "versions": versions(), "phases": {}}
    if card is None and not options.tiny:
        report["phases"] = {phase.name: {"skipped": "not measured: no GPU was at hand"} for phase in chosen}
        write_report(report, options.results)
        print("no GPU: benchmarks/results/engine_gpu.md says that nothing was measured")
        return
    with tempfile.TemporaryDirectory() as directory:
        runner = Runner(options, Path(directory))
        for phase in chosen:
            report["phases"][phase.name] = found = runner.measure(phase)
            print(f"{phase.name}: {line_of(found)}", flush=True)
            if not options.tiny:
                write_report(report, options.results)
    print(markdown(report) if options.tiny else "")
    print(json.dumps(report))


def find_card() -> str | None:
    """Return the name of the first GPU and its memory; None if there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout.strip() else None


def versions() -> dict[str, str]:
    """Return the versions of the packages that were measured, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def line_of(found: dict[str, Any]) -> str:
    """Return what a phase found as one line."""
    for reason in ("skipped", "failed"):
        if reason in found:
            return f"{reason}: {found[reason]}"
    hidden = {"step_seconds", "losses", "said"}
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items() if k not in hidden}
    return ", ".join([*(f"{name} {value}" for name, value in shown.items()), *found.get("said", [])[-1:]])


GOALS = {
    "speedup_k2": "useful tokens/s, K = 2, ours against TRL's fastest: >= 1.75",
    "speedup_k2_vs_flash_pref": "the same against flash-pref: > 1.2",
    "speedup_k8_vs_disjoint_pairs": "K = 8, against TRL on four disjoint pairs: >= 2.5",
    "speedup_k8_vs_all_pairs": "K = 8, against TRL on all 28 pairs: >= 12",
    "speedup_ultrafeedback_lengths": "lengths like UltraFeedback's, against TRL (no goal)",
    "speedup_8b_lora": "an 8B model with LoRA, against TRL (no goal)",
    "memory_ratio_k2": "peak memory, ours against TRL's fastest: <= 0.55",
    "mfu_1b": "6 N per useful token and second, of the matmul peak measured in the same run: >= 0.55",
    "attention_gb_beyond_linear": "a 32k pack's attention, beyond what is linear in tokens, GB: 0",
    "first_step_again_seconds": "from the start of a process to its first step, files and kernels on disk: <= 10",
    "reference_pass_speedup": "seconds of the reference pass, TRL's against ours (ours reads the model): > 1",
    "annotation_speedup": "against transformers' padded rows at the better batch (no goal)",
}


def summary(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the figures that the goals are about, as far as their phases were measured."""

    def fastest(comparison: str, who: str) -> dict[str, Any] | None:
        names = [n for n in found if n.startswith(f"{comparison}: {who}") and "useful_tokens_per_second" in found[n]]
        return max((found[name] for name in names), key=lambda of: of["useful_tokens_per_second"], default=None)

    figures: dict[str, float] = {}

    def compare(figure: str, key: str, ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
        if ours and theirs and theirs.get(key):
            figures[figure] = ours[key] / theirs[key]

    speed, ours, trl = "useful_tokens_per_second", fastest("K = 2", "ours"), fastest("K = 2", "TRL")
    compare("speedup_k2", speed, ours, trl)
    compare("speedup_k2_vs_flash_pref", speed, ours, fastest("K = 2", "flash-pref"))
    eight = fastest("K = 8", "ours")
    compare("speedup_k8_vs_disjoint_pairs", speed, eight, fastest("K = 8", "TRL, four disjoint"))
    compare("speedup_k8_vs_all_pairs", speed, eight, fastest("K = 8", "TRL, all"))
    for figure, name in (("ultrafeedback_lengths", "UltraFeedback lengths"), ("8b_lora", "8B, LoRA")):
        compare(f"speedup_{figure}", speed, fastest(name, "ours"), fastest(name, "TRL"))
    compare("memory_ratio_k2", "peak_gb", ours, trl)
    compare("reference_pass_speedup", "reference_seconds", trl, ours)
    alone = {
        "mfu_1b": (ours, "mfu"),
        "attention_gb_beyond_linear": (found.get("attention memory of a 32k pack"), "beyond_linear_gb"),
        "first_step_again_seconds": (found.get("start"), "first_step_again_seconds"),
        "annotation_speedup": (found.get("annotation"), "speedup"),
    }
    return figures | {figure: of[key] for figure, (of, key) in alone.items() if of and key in of}


def write_report(report: dict[str, Any], directory: Path) -> None:
    """Write `engine_gpu.json` and `engine_gpu.md`."""
    directory.mkdir(exist_ok=True)
    for name, text in (("json", json.dumps(report, indent=2) + "\n"), ("md", markdown(report))):
        partial = directory / f".engine_gpu.{name}.partial"
        partial.write_text(text)
        partial.replace(directory / f"engine_gpu.{name}")


def markdown(report: dict[str, Any]) -> str:
    """Return the report as tables."""
    found, figures = report["phases"], summary(report["phases"])
    packages = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        "# The training engine on one GPU",
        "",
        f"`{report['command']}` on {report['card'] or 'no GPU'}, {report['date']}; {packages}.",
        "",
        "A Llama of 1.24B random parameters (8.03B where it says so), AdamW, bf16 compute, 4 groups a step unless it",
        "says otherwise. K = 2: 1024 prompt tokens and 2 x 512 response tokens; K = 8: 512 and 8 x 256. Useful tokens",
        "are those of a group, its prompt counted once. TRL has precomputed reference log-probs. Medians over the",
        "steps of one run, after three that warm up.",
        "",
        "| figure | measured | what, and the goal |",
        "| --- | --- | --- |",
    ]
    for name, goal in GOALS.items():
        lines.append(f"| {name} | {f'{figures[name]:.3g}' if name in figures else 'not measured'} | {goal} |")
    lines += [
        "",
        "| phase | ms a step | useful tokens/s | MFU | peak GB | reference pass, s | graphs (after step 3), breaks |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    others = []
    for name, of in found.items():
        if "step_ms" in of:
            mfu, reference = (of.get(key) for key in ("mfu", "reference_seconds"))
            graphs = "{compiled_graphs} ({compiled_after_step_3}), {graph_breaks}" if "compiled_graphs" in of else ""
            cells = [f"{of['step_ms']:.0f}", f"{of['useful_tokens_per_second']:.0f}", f"{mfu:.0%}" if mfu else ""]
            cells += [f"{of['peak_gb']:.1f}", f"{reference:.1f}" if reference else "", graphs.format(**of)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        elif reason := of.get("skipped") or of.get("failed"):
            lines.append(f"| {name} | {reason.replace('|', '/')} | | | | | |")
        else:
            others += ["", f"**{name}**: {line_of({k: v for k, v in of.items() if k != 'said'})}"]
            if "said" in of:
                others += ["", "```text", *of["said"], "```"]
    return "\n".join([*lines, *others]) + "\n"


if __name__ == "__main__":
    main()
