"""Annotation with a reward model against transformers' own padded text-classification pipeline: same rows, same scores.

    make bench-annotation

Configurations alternate, each run in a process of its own; what is written are medians over the runs. Results go to
benchmarks/results/annotation.{json,md}.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from engine_report import machine

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.formats import read_rated
from rao_kedro.data.readers import read_rows
from rao_kedro.files import write_text
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.gguf import convert_gguf, packaged_gguf
from rao_kedro.models.loading import load_reward_model, new_reward_model, save_checkpoint
from rao_kedro.models.reward_head import padding_token_id
from rao_kedro.rewards import PromptGroup, make_reward
from rao_kedro.workers import CPU_MEMORY_SETTINGS

HERE = Path(__file__).parent
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ours, fp32": {"kind": "ours", "precision": "no"},
    "ours, bf16": {"kind": "ours", "precision": "bf16"},
    **{
        f"pipeline, {name}, batch {batch}": {"kind": "pipeline", "precision": precision, "batch": batch}
        for name, precision in (("fp32", "no"), ("bf16", "bf16"))
        for batch in (1, 8)
    },
}


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    path = Path("../shared/data/rated_responses/tulu2_dpo_13b_bon16.jsonl.gz")
    parser.add_argument("--rated", type=Path, default=path)
    parser.add_argument("--prompts", type=int, default=4, help="prompts, drawn at random, of 16 responses each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(**json.loads(options.worker))))
        return
    with tempfile.TemporaryDirectory() as directory:
        model = reward_model(Path(directory))
        about = machine(model)
        request = {"model_dir": str(model), "rated": str(options.rated), "prompts": options.prompts}
        runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for repeat in range(options.repeats):
            for name, configuration in CONFIGURATIONS.items():
                runs[name].append(run := ask(request | configuration))
                print(f"{name}, run {repeat + 1}: {run['seconds']:.1f} s", flush=True)
    command = " ".join(["python benchmarks/annotation.py", *sys.argv[1:]]) if sys.argv[1:] else "make bench-annotation"
    report = {"command": command, **about, "runs": runs}
    options.results.mkdir(exist_ok=True)
    write_text(options.results / "annotation.json", json.dumps(report, indent=2) + "\n")
    write_text(options.results / "annotation.md", markdown(report))


def reward_model(directory: Path) -> Path:
    """Return the packaged model with a random head."""
    with packaged_gguf() as packaged:
        base = convert_gguf(packaged, None, directory / "base")
    torch.manual_seed(0)
    model, chat = new_reward_model(base), load_chat_format(base)
    tokenizer = chat.tokenizer
    tokenizer.pad_token_id = model.config.pad_token_id = padding_token_id(tokenizer, chat.end_of_turn_ids)
    save_checkpoint(model, tokenizer, directory / "model")
    return directory / "model"


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker measured: ours in the environment that `launch` gives it, the pipeline in the plain one."""
    environment = {name: value for name, value in os.environ.items() if name not in CPU_MEMORY_SETTINGS}
    environment |= CPU_MEMORY_SETTINGS if request["kind"] == "ours" else {}
    command = [sys.executable, __file__, "--worker", json.dumps(request)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    measured: dict[str, Any] = json.loads(said.splitlines()[-1])
    return measured


def work(kind: str, model_dir: str, rated: str, prompts: int, precision: str, batch: int = 0) -> dict[str, Any]:
    """Score the rows once, after a first group that warms up."""
    groups = read_groups(Path(rated), prompts)
    score = ours(model_dir, precision) if kind == "ours" else pipeline(model_dir, precision, batch)
    score(groups[:1])
    started = time.perf_counter()
    scores = score(groups)
    return {"seconds": time.perf_counter() - started, "scores": scores, **sizes(model_dir, groups)}


def read_groups(path: Path, prompts: int) -> list[PromptGroup]:
    """Return some prompts with all their responses."""
    rows = list(read_rows(PreferenceSource(path=str(path), format="rated")))
    drawn = random.Random(0).sample(rows, prompts)
    raw = [read_rated(row.content, rating_key="gpt4turbo_preference") for row in drawn]
    return [PromptGroup(str(i), group.messages, group.responses) for i, group in enumerate(raw)]


def ours(model_dir: str, precision: str) -> Any:
    """Return the project's reward."""
    reward = make_reward("bradley_terry", model_dir=model_dir, mixed_precision=precision)
    return lambda groups: [value for row in reward.score(groups) for value in row]


def pipeline(model_dir: str, precision: str, batch: int) -> Any:
    """Return transformers' pipeline, which reads a row of text per response."""
    import transformers

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tokenizer = load_tokenizer(model_dir)
    classify = transformers.pipeline(
        "text-classification", model=model_dir, tokenizer=tokenizer, dtype=dtype, batch_size=batch, device="cpu"
    )

    def score(groups: list[PromptGroup]) -> list[float]:
        chats = [[*g.messages, {"role": "assistant", "content": text}] for g in groups for text in g.responses]
        rows = [str(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in chats]
        return [found["score"] for found in classify(rows, function_to_apply="none")]

    return score


def sizes(model_dir: str, groups: list[PromptGroup]) -> dict[str, int]:
    """Return the useful tokens (a prompt once), those of rows, and the FLOPs of the useful ones' matrix products."""
    chat, model = load_chat_format(model_dir), load_reward_model(model_dir)
    prompts = [len(prompt_token_ids(chat, group.messages)) for group in groups]
    responses = [[len(response_token_ids(chat, g.messages, text)) for text in g.responses] for g in groups]
    useful = sum(prompts) + sum(map(sum, responses))
    rows = sum(n * len(of) for n, of in zip(prompts, responses, strict=True)) + sum(map(sum, responses))
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    return {"useful_tokens": useful, "row_tokens": rows, "flops": 2 * weights * useful}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    runs, peak = report["runs"], report["matmul_peak_gflops"]
    medians = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    first = runs["ours, fp32"][0]
    exact = next(of[0]["scores"] for name, of in runs.items() if name.startswith("pipeline, fp32"))
    difference = max(abs(a - b) for a, b in zip(first["scores"], exact, strict=True))
    lines = [
        "# Annotation against transformers' text-classification pipeline",
        "",
        f"`{report['command']}` on {report['machine']}; matmul peak {peak['fp32']:.0f} GFLOP/s fp32, {peak['bf16']:.0f}"
        f" bf16; torch {report['versions']['torch']}, transformers {report['versions']['transformers']}.",
        "",
        f"{len(first['scores'])} real rated responses, {first['useful_tokens']} useful tokens (a prompt counted once), "
        f"{first['row_tokens']} with a prompt before each response; a 135M model with a scalar head. Medians over "
        f"{len(runs['ours, fp32'])} runs that take turns. Scores in fp32 differ by {difference:.1e} at most.",
        "",
        "| run | s | spread | useful tokens/s | share of the matmul peak (2 N per useful token) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, of in runs.items():
        spread = max(run["seconds"] for run in of) - min(run["seconds"] for run in of)
        bound = first["flops"] / medians[name] / 1e9 / peak["bf16" if "bf16" in name else "fp32"]
        speed = first["useful_tokens"] / medians[name]
        lines.append(f"| {name} | {medians[name]:.1f} | {spread:.1f} | {speed:.0f} | {bound:.0%} |")
    lines += [
        "",
        "| ours against the pipeline | fp32 | bf16 | bf16 against its fp32 | goal |",
        "| --- | --- | --- | --- | --- |",
    ]
    for batch, how in ((1, "no padding"), (8, "padded")):
        pairs = (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"))
        ratios = [medians[f"pipeline, {its}, batch {batch}"] / medians[f"ours, {our}"] for our, its in pairs]
        lines.append(f"| batch {batch} ({how}) | " + " | ".join(f"{ratio:.2f}x" for ratio in ratios) + " | >= 2.5x |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
