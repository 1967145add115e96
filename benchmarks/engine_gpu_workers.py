"""One measured phase of the engine's benchmark on a GPU, in a process of its own.

    python benchmarks/engine_gpu_workers.py '{"kind": "ours", ...}'

prints one JSON object last.
"""

import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine_workers import DEVICE, ours, random_model, trl

from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.training.forecast import peak_memory

HERE = Path(__file__).parent


def read(groups_path: Path) -> list[TokenizedGroup]:
    """Return the groups of a table, in its order."""
    from rao_kedro.data.token_tables import read_groups_in_table_order

    return read_groups_in_table_order(groups_path)


def synchronize() -> None:
    """Wait for the GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def attention_memory(heads: int, key_heads: int, width: int, sizes: list[int], prompt: int, response: int) -> dict:
    """Measure what the attention of a pack holds, forward and backward, beyond what is linear in its tokens."""
    from transformers import LlamaConfig, LlamaModel

    from rao_kedro.models.loading import use_packed_attention
    from rao_kedro.models.packing import compute_hidden_states, pack_groups

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=heads * width,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=width,
        max_position_embeddings=2 * max(sizes),
    )
    with DEVICE:
        model = use_packed_attention(LlamaModel(config)).to(torch.bfloat16)
    peaks = []
    for tokens in sizes:
        groups = [TokenizedGroup(f"g{i}", [5] * prompt, [[6] * response] * 2) for i in range(tokens // (2 * prompt))]
        batch = pack_groups(groups).to(DEVICE)
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if DEVICE.type == "cuda" else 0
        compute_hidden_states(model, batch).float().square().mean().backward()
        synchronize()
        peaks.append((peak_memory(DEVICE) - before) / 1e9)
        model.zero_grad()
    small, middle, large = peaks  # of packs that double in size
    return {"sizes": sizes, "peaks_gb": peaks, "beyond_linear_gb": large - middle - 2 * (middle - small)}


def annotation(groups_path: Path, architecture: dict, max_tokens_per_batch: int, batches: list[int]) -> dict:
    """Score the responses with a reward model: packed groups, and padded rows as transformers computes them."""
    from transformers import AutoModelForSequenceClassification

    from rao_kedro.models.loading import use_packed_attention
    from rao_kedro.models.reward_head import reward_module
    from rao_kedro.scoring.forward import ForwardPass, score_rewards

    groups = read(groups_path)
    useful = sum(group.n_tokens for group in groups)
    auto, labels = AutoModelForSequenceClassification, {"num_labels": 1, "dtype": torch.bfloat16}
    plain = random_model(auto, architecture | {"pad_token_id": 0}, attn_implementation="sdpa", **labels).eval()
    rows = [[*group.prompt_ids, *ids] for group in groups for ids in group.response_ids]
    rows.sort(key=len)  # transformers' best: rows of a batch have about one length
    seconds: dict[str, float] = {}

    def clock(name: str, score: Callable[[], object], n: int = 2) -> None:
        score()
        synchronize()
        started = time.perf_counter()
        for _ in range(n):
            score()
        synchronize()
        seconds[name] = (time.perf_counter() - started) / n

    @torch.no_grad()
    def in_batches(model: Any, size: int) -> None:
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            most = max(map(len, batch))
            ids = torch.tensor([[*row, *[0] * (most - len(row))] for row in batch], device=DEVICE)
            model(input_ids=ids, attention_mask=ids != 0).logits.flatten().tolist()

    for size in batches:
        try:
            clock(f"transformers, batch {size}", lambda size=size: in_batches(plain, size))
        except torch.OutOfMemoryError:
            seconds[f"transformers, batch {size}"] = math.nan
    plain.cpu()
    packed = reward_module(use_packed_attention(random_model(auto, architecture | {"pad_token_id": 0}, **labels)))
    how = ForwardPass("bf16_weights", max_tokens_per_batch, t0_length=1)
    clock("ours", lambda: score_rewards(packed, groups, how))
    best = min(value for name, value in seconds.items() if name != "ours" and not math.isnan(value))
    return {"seconds": seconds, "useful_tokens_per_second": useful / seconds["ours"], "speedup": best / seconds["ours"]}


def start(groups_path: Path, architecture: dict, model_dir: Path, **options) -> dict:
    """Start a training process as a node does, from a checkpoint on disk, and wait for its first step.

    It starts twice: the second time, compiled kernels are on disk and the files in memory.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rao_kedro.config.specs import AlignmentSpec, ScoringSpec
    from rao_kedro.config.training import KLParameters, TrainingParameters
    from rao_kedro.models.loading import save_checkpoint

    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        model = random_model(AutoModelForCausalLM, architecture, dtype=torch.bfloat16)
        save_checkpoint(model, AutoTokenizer.from_pretrained(model_dir), work / "model")
        del model
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
        common = {"model_dir": work / "model", "groups_path": groups_path}
        training = TrainingParameters(learning_rate=1e-6, warmup_ratio=0.0, keep="last", **options)
        scoring = ScoringSpec(
            workspace=work / "reference",
            output_path=work / "reference.parquet",
            max_tokens_per_batch=training.max_tokens_per_batch,
            mixed_precision=training.mixed_precision,
            **common,
        )
        seconds = {"reference_process_seconds": seconds_until(scoring, lambda: False)}
        for name in ("first_step_seconds", "first_step_again_seconds"):
            spec = AlignmentSpec(
                workspace=work / name,
                reference_path=scoring.output_path,
                objective="dpo",
                objective_parameters={"beta": 0.1},
                training=training,
                kl=KLParameters(prompts=0),
                **common,
            )
            log = spec.log_path
            seconds[name] = seconds_until(spec, lambda log=log: log.exists() and '"loss"' in log.read_text())
    return seconds


def seconds_until(spec: Any, done: Callable[[], bool]) -> float:
    """Return the seconds from the start of a worker until something is done, or until it ends; then it is killed."""
    spec.workspace.mkdir()
    spec.spec_path.write_text(spec.model_dump_json())
    begun = time.perf_counter()
    command = [sys.executable, "-m", spec.worker, str(spec.spec_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**spec.environment, **os.environ})
    while process.poll() is None and not done():
        time.sleep(0.05)
    seconds = time.perf_counter() - begun
    process.kill()
    if process.wait() not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{spec.worker} failed")
    return seconds


def gpu_tests(tiny: bool) -> dict:
    """Run the tests of tests/gpu; return the last lines that pytest printed."""
    command = [sys.executable, "-m", "pytest", "-o", "addopts=--import-mode=importlib", "-q", "-rfEs", "tests/gpu"]
    command += ["--collect-only"] if tiny else []
    ended = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = ended.stdout.splitlines()
    return {"exit_status": ended.returncode, "said": [line[:200] for line in lines[-25:]]}


def log_probs_candidates(tiny: bool, seconds: int = 100) -> dict:
    """Run the benchmark of the log-prob step; return what it has printed when it ends or its time is over."""
    command = [sys.executable, str(HERE / "log_probs.py")]
    command += [json.dumps({"candidate": "tiles", "vocabulary": 512})] if tiny else []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            status = None
        output.seek(0)
        return {"exit_status": status, "said": output.read().splitlines()[-60:]}


KINDS = {
    "ours": ours,
    "trl": trl,
    "attention_memory": attention_memory,
    "annotation": annotation,
    "start": start,
    "gpu_tests": gpu_tests,
    "log_probs": log_probs_candidates,
}


def summarise_steps(measured: dict, useful_tokens_per_step: float) -> dict:
    """Return what was measured with the median step, useful tokens per second, compiled graphs and graph breaks."""
    step = statistics.median(measured["step_seconds"])
    added = {"step_ms": 1e3 * step, "useful_tokens_per_second": useful_tokens_per_step / step}
    if graphs := measured.pop("graphs", None):
        (after_three, _), (in_all, breaks) = graphs[min(2, len(graphs) - 1)], graphs[-1]
        added |= {"compiled_graphs": in_all, "compiled_after_step_3": in_all - after_three, "graph_breaks": breaks}
    return measured | added


def main() -> None:
    """Measure the phase that the argument describes."""
    request = json.loads(sys.argv[1])
    useful = request.pop("useful_tokens_per_step", None)
    paths = {key: Path(request[key]) for key in ("groups_path", "model_dir") if key in request}
    measured = KINDS[request.pop("kind")](**request | paths)
    measured["peak_gb"] = peak_memory(DEVICE) / 1e9
    if useful:
        measured = summarise_steps(measured, useful)
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
