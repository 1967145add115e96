"""Memory and start of training processes that read a table of UltraFeedback's size.

    python benchmarks/token_tables.py

Every process builds the task of an alignment, all but its model: it checks the reference log-probs and reads the
groups. Memory is that of the whole process, torch included. Prints a line for each process, and JSON last.
"""

import argparse
import json
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rao_kedro.config.specs import AlignmentSpec
from rao_kedro.config.training import TrainingParameters
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.token_tables import PromptGroups
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.scoring.reference_cache import scoring_key
from rao_kedro.training.tasks.offline import OfflineAlignment

PROMPT, RESPONSE, RESPONSES = 220, 170, 4  # mean tokens; with four responses, 900 tokens a group


def main() -> None:
    """Fabricate a table, and let processes read it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=61_135)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--spec", help="used by the script itself: what a process reads")
    options = parser.parse_args()
    if options.spec:
        found, *_kept = read(Path(options.spec))
        print(json.dumps(found), flush=True)
        sys.stdin.readline()  # the memory stays until every process was measured
        return
    with tempfile.TemporaryDirectory() as directory:
        spec = fabricate(Path(directory), options.groups)
        result = {"groups": options.groups, "first start": measure(spec, options.processes)}
        result["later starts"] = measure(spec, options.processes)
    print(json.dumps(result))


def fabricate(directory: Path, n_groups: int) -> Path:
    """Write a table of random tokens and text, reference log-probs for it, and a spec that names both."""
    rng, random_text = np.random.default_rng(0), random.Random(0)
    words = "".join(random_text.choices(string.ascii_lowercase + " ", k=100_000))

    def lengths(mean: int, n: int) -> np.ndarray:
        return rng.integers(mean // 4, mean * 7 // 4 + 1, n, dtype=np.int32)

    def lists(of: np.ndarray, values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], of.cumsum()]), pa.int32()), values)

    def tokens(of: np.ndarray) -> pa.Array:
        return lists(of, pa.array(rng.integers(3, 128_000, int(of.sum()))))

    def texts(of: np.ndarray) -> list[str]:  # four characters a token
        return [words[start : start + 4 * n] for start, n in zip(rng.integers(0, 90_000, len(of)), of, strict=True)]

    n_responses = n_groups * RESPONSES
    of_prompts, of_responses = lengths(PROMPT, n_groups), lengths(RESPONSE, n_responses)
    each = np.full(n_groups, RESPONSES, dtype=np.int32)
    numbers = lists(each, pa.array(rng.standard_normal(n_responses)))
    ids = [f"group-{i}" for i in range(n_groups)]
    rows = {
        "group_id": ids,
        "split": ["validation" if i % 50 == 0 else "train" for i in range(n_groups)],
        "messages": [[{"role": "user", "content": text}] for text in texts(of_prompts)],
        "responses": lists(each, pa.array(texts(of_responses))),
        "requirements": ["[]"] * n_groups,
        "prompt_ids": tokens(of_prompts),
        "response_ids": lists(each, tokens(of_responses)),
        "ratings": numbers,
        "finished": lists(each, pa.array([True] * n_responses)),
        "rewards": numbers,
        "chosen": np.full(n_groups, 1),
        "rejected": np.full(n_groups, 0),
    }
    groups, reference, model = directory / "groups.parquet", directory / "reference.parquet", directory / "model"
    pq.write_table(pa.table(rows), groups)
    build_tiny_checkpoint(model)
    key = scoring_key(model, groups, "no", 1)
    known = {"group_id": ids, "prompt_logp": np.zeros(n_groups), "response_logps": numbers, "key": [key] * n_groups}
    pq.write_table(pa.table(known), reference)
    training = TrainingParameters(learning_rate=1e-6, batch_size=64, max_tokens_per_batch=8192, mixed_precision="no")
    common = {"workspace": directory / "work", "model_dir": model, "groups_path": groups, "reference_path": reference}
    spec = AlignmentSpec(**common, objective="rao", objective_parameters={"log_z0": 0.0}, training=training)
    path = directory / "spec.json"
    path.write_text(spec.model_dump_json())
    return path


def measure(spec: Path, n_processes: int) -> list[dict[str, float]]:
    """Return what each of several processes measured that start at once and are alive together."""
    command = [sys.executable, __file__, "--spec", str(spec)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n_processes)
    ]
    said = [process.stdout.readline() for process in processes if process.stdout]
    found = [json.loads(line) | memory(process.pid) for process, line in zip(processes, said, strict=True)]
    for process in processes:
        process.communicate("\n")
    for line in found:
        print(line, flush=True)
    return found


def read(spec_path: Path) -> tuple[dict[str, float], OfflineAlignment, Sequence[PromptGroup]]:
    """Build the task of the spec, and read the text that rewards read; return the seconds and memory of each."""
    before = memory("self")
    started = time.perf_counter()
    spec = AlignmentSpec.model_validate_json(spec_path.read_text())
    task = OfflineAlignment(spec)
    seconds = time.perf_counter() - started
    tokens = sum(group.n_tokens for group in task.train_groups)
    of_task = memory("self")
    started = time.perf_counter()
    texts = PromptGroups(spec.groups_path)
    characters = sum(len(response) for group in texts for response in group.responses)
    found = {
        "tokens": tokens,
        "characters": characters,
        "imports_mb": before["rss_mb"],
        "task_seconds": round(seconds, 1),
        "task_rss_mb": of_task["rss_mb"],
        "text_seconds": round(time.perf_counter() - started, 1),
    }
    return found, task, texts


def memory(process: int | str) -> dict[str, float]:
    """Return a process's resident memory, its share of it (PSS), what it alone holds (USS), and its peak, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}
    peak = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "rss_mb": round(kilobytes["Rss"] / 1e3),
        "pss_mb": round(kilobytes["Pss"] / 1e3),
        "uss_mb": round((kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1e3),
        "peak_rss_mb": round(int(peak.split()[1]) / 1e3),
    }


if __name__ == "__main__":
    main()
