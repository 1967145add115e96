"""Data preparation at several sizes: rows per second and peak memory of every step, which must not grow with the rows.

    make bench-data
    python benchmarks/data.py --sizes 5000 20000

A table is fabricated from real UltraFeedback rows whose prompts are numbered, so that none occurs twice. Every step is
a node of the pipeline, without its model, in a process of its own: what is measured is that process with all that it
starts, sampled every 50 ms. Results are written after each size to benchmarks/results/data.{json,md,png}; those of
other sizes stay. The last line is JSON.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_report
import psutil

from rao_kedro.config.data_engineering import PreferenceFiles
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AnnotationSpec, ScoringSpec
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.datasets import TableFileDataset, TableFileValidator

HERE = Path(__file__).parent
SHARED, SHIPPED = (HERE.parent / place / "ultrafeedback" for place in ("../shared/data", "tests/assets"))
# The tokenizer may use its threads, which the Makefile forbids where processes fork.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
STEPS = ("read", "tokenise", "annotate", "report", "reference", "training")


def main() -> None:
    """Measure each size, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[15_000, 61_135, 250_000], help="training rows")
    parser.add_argument("--rows", type=Path, default=SHARED if SHARED.exists() else SHIPPED, help="real rows")
    parser.add_argument("--model", type=Path, help="a checkpoint whose tokenizer is used; by default the packaged one")
    parser.add_argument("--num-proc", type=int, default=1, help="data.num_proc")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--directory", type=Path, help="where tables are written; by default a temporary directory")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(*options.step)
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        model = options.model or packaged_model(directory / "model")
        for size in options.sizes:
            work = directory / str(size)
            work.mkdir()
            fabricate(work, options.rows, size)
            settings = {"directory": str(work), "model": str(model), "num_proc": options.num_proc}
            found = {"num_proc": options.num_proc, "steps": {step: measure(step, settings, size) for step in STEPS}}
            report = data_report.write(options.results, size, found)
            shutil.rmtree(work)  # the next size needs the disk
    print(json.dumps(report))


def packaged_model(directory: Path) -> Path:
    """Return the checkpoint of the model that a Python package ships."""
    from rao_kedro.models.gguf import convert_gguf, packaged_gguf

    with packaged_gguf() as path:
        return convert_gguf(path, None, directory)


def fabricate(directory: Path, rows: Path, size: int) -> None:
    """Write training and held-out rows: real ones again and again, each time with other numbers in their prompts."""
    for name, source, n in (("train", "train", size), ("test", "eval", max(200, size // 50))):
        with gzip.open(rows / f"{source}.jsonl.gz", "rt", encoding="utf-8") as file:
            real = [json.loads(line) for line in file]
        with (directory / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for i, row in enumerate(itertools.islice(itertools.cycle(real), n)):
                file.write(json.dumps({**row, "prompt": f"{name} {i}: {row['prompt']}"}) + "\n")


def measure(step: str, settings: dict[str, Any], size: int) -> dict[str, float]:
    """Run a step in a process, and return its seconds, its rows per second, and its peak memory in MB.

    `anonymous_mb` leaves out pages of mapped files, which the system takes back when memory is short.
    """
    command = [sys.executable, __file__, "--step", step, json.dumps(settings)]
    process = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE)
    with process, sampling(process.pid) as peaks:
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"step {step} failed")
    said = json.loads(output.splitlines()[-1])
    found = {"seconds": said["seconds"], "rows_per_second": size / said["seconds"], "peak_mb": peaks[0] / 1e6}
    found["anonymous_mb"] = peaks[1] / 1e6
    found["start_mb"] = said["start_mb"]
    print(f"{size} rows, {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    return found


class sampling:
    """Samples the resident memory of a process and all its descendants until the end of the block."""

    def __init__(self, pid: int) -> None:
        self.root, self.peaks, self.done = psutil.Process(pid), [0, 0], threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> list[int]:
        self.thread.start()
        return self.peaks

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def watch(self) -> None:
        """Sample every 50 ms."""
        while not self.done.wait(0.05):
            for i, found in enumerate(resident(self.root)):
                self.peaks[i] = max(self.peaks[i], found)


def resident(root: psutil.Process) -> tuple[int, int]:
    """Return the bytes that a process and its descendants hold, and those of them that are no pages of files."""
    total = anonymous = 0
    try:
        for process in [root, *root.children(recursive=True)]:
            found = process.memory_info()
            total, anonymous = total + found.rss, anonymous + found.rss - getattr(found, "shared", 0)
    except psutil.Error:
        return 0, 0  # one of them ended meanwhile
    return total, anonymous


def run_step(step: str, settings: str) -> None:
    """Do one step in this process, and print its seconds, imports left out, and the memory that it started with."""
    given = json.loads(settings)
    work = ready(step, Path(given["directory"]), Path(given["model"]), given["num_proc"])
    start, started = psutil.Process().memory_info().rss / 1e6, time.perf_counter()
    work()
    print(json.dumps({"seconds": time.perf_counter() - started, "start_mb": start}))


def ready(step: str, directory: Path, model: Path, num_proc: int) -> Callable[[], None]:
    """Import what a step needs, and return it."""
    workers = WorkerParameters(accelerate_config=Path("none"), in_process=True, workspaces=directory / "workspaces")
    tables = {name: directory / f"{name}.parquet" for name in ("groups", "unreadable", "tokenized", "annotated")}
    tables["reference"] = directory / "reference.parquet"
    match step:
        case "read":
            from rao_kedro.pipelines.data_engineering.nodes import collect_preferences

            sources = {name: {"path": str(directory / f"{name}.jsonl")} for name in ("train", "test")}
            files = PreferenceFiles(**sources)

            def read() -> None:
                made = collect_preferences("preferences", None, files, 100, None, model, workers)
                publish(made[0], tables["groups"], "PreferenceGroupTable")
                publish(made[1], tables["unreadable"], "QuarantineTable")

            return read
        case "tokenise":
            from rao_kedro.models.chat_format import load_chat_format
            from rao_kedro.pipelines.data_engineering.nodes import tokenize

            load_chat_format(model)  # imports transformers
            files = PreferenceFiles(train={"path": "train"}, test={"path": "test"})
            inputs = (tables["groups"], tables["unreadable"], None, model, "preferences", None, files, 100)

            def tokenise() -> None:
                made = tokenize(*inputs, 2048, 2048, 1, "best_vs_random", 0, num_proc, workers)
                publish(made[0], tables["tokenized"], "TokenizedGroupTable")

            return tokenise
        case "annotate":
            from rao_kedro.rewards import worker  # noqa: F401
            from rao_kedro.rewards.annotation import join_rewards
            from rao_kedro.workers import launch

            def annotate() -> None:
                spec = AnnotationSpec(
                    workspace=workers.workspace("annotation"),
                    groups_path=tables["tokenized"],
                    reward=RewardParameters(name="ratings"),
                    output_path=directory / "rewards.parquet",
                )
                launch(spec, workers)
                how = (directory, "standardise", "best_vs_random", 0)
                made, _ = join_rewards(tables["tokenized"], spec.output_path, *how)
                publish(made, tables["annotated"], "AnnotatedGroupTable")

            return annotate
        case "report":
            import scipy.stats  # noqa: F401  which the report imports when it needs it

            from rao_kedro.pipelines.reward_modeling.nodes import plot_calibration, report_rewards

            def report() -> None:
                _, grid = report_rewards(tables["annotated"], {"beta": 0.1, "log_z0": "auto"}, None)
                plot_calibration(tables["annotated"], grid)

            return report
        case "reference":
            import rao_kedro.scoring.forward

            return lambda: score_nothing(model, tables, workers)
        case _:
            import rao_kedro.data.token_tables  # noqa: F401

            return lambda: read_for_training(tables)


def score_nothing(model: Path, tables: dict[str, Path], workers: WorkerParameters) -> None:
    """Write reference log-probs without a model: those of all responses are -1."""
    from rao_kedro.data.arrow_schemas import REFERENCE_LOGPROBS
    from rao_kedro.data.token_tables import read_groups_in_table_order
    from rao_kedro.scoring.forward import write_in_shards
    from rao_kedro.scoring.reference_cache import scoring_key

    spec = ScoringSpec(
        workspace=workers.workspace("reference"),
        model_dir=model,
        groups_path=tables["annotated"],
        t0_length=1,
        output_path=tables["reference"],
        max_tokens_per_batch=8192,
        mixed_precision="no",
    )
    key = scoring_key(model, spec.groups_path, "no", 1)

    def score(groups: Any) -> list[dict[str, Any]]:
        return [
            {"group_id": g.group_id, "prompt_logp": -1.0, "response_logps": [-1.0] * len(g.response_ids), "key": key}
            for g in groups
        ]

    write_in_shards(spec, key, REFERENCE_LOGPROBS, read_groups_in_table_order(spec.groups_path), score)
    TableFileValidator("rao_kedro.data.tables.ReferenceLogProbTable").validate(spec.output_path)


def read_for_training(tables: dict[str, Path]) -> None:
    """Read what the training of an offline method reads, and go once over all tokens."""
    from rao_kedro.data.token_tables import read_groups, read_reference

    reference = read_reference(tables["reference"], tables["annotated"])
    parts = [read_groups(tables["annotated"], split, ["rewards"]) for split in ("train", "validation")]
    tokens = sum(int(ids.sum() > 0) for groups in parts for group in groups for ids in group.response_ids)
    assert tokens and len(reference) >= sum(map(len, parts))


def publish(made: Path, place: Path, table: str) -> None:
    """Check a table and move it to its place, as Kedro does when a node has made it."""
    TableFileValidator(f"rao_kedro.data.tables.{table}").validate(made)
    TableFileDataset(filepath=str(place)).save(made)


if __name__ == "__main__":
    main()
