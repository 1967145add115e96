"""One run at a time in a directory: launchers, workers and nodes refuse where another one is at work."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rao_kedro.config.generation import GenerationSpec, SamplingParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.servers import ServerParameters
from rao_kedro.config.specs import AnnotationSpec, ModelParameters, PolicyScoringSpec, ScoringSpec
from rao_kedro.errors import BusyError
from rao_kedro.evals.alpaca_eval.benchmark import AlpacaEvalParameters
from rao_kedro.evals.launch import answer
from rao_kedro.evals.mt_bench.benchmark import MTBenchParameters
from rao_kedro.evals.parameters import BenchmarkParameters
from rao_kedro.evals.specs import PolicyAnswersSpec, ServedAnswersSpec
from rao_kedro.files import only_one_in, write_text
from rao_kedro.generation.launch import generate
from rao_kedro.launch import launch
from rao_kedro.models.launch import import_model
from rao_kedro.pipelines.evaluation.benchmark_nodes import judge_methods


def generation_spec(directory, model_dir=Path("model"), n_prompts=0):
    prompts = [{"prompt_id": str(i), "messages": [{"role": "user", "content": f"q{i}"}]} for i in range(n_prompts)]
    pd.DataFrame(prompts).assign(requirements="[]").to_parquet(directory / "prompts.parquet")
    return GenerationSpec(
        model_dir=model_dir,
        prompts_path=directory / "prompts.parquet",
        output_path=directory / "generations.parquet",
        backend="transformers",
        dtype="float32",
        sampling=SamplingParameters(max_tokens=4),
        shard_size=1,
    )


def test_a_second_generation_into_a_workspace_is_refused_and_the_first_one_ends(tmp_path, tiny_checkpoint):
    """The first one is stopped behind its first shard, so that the others meet it for certain."""
    spec = generation_spec(tmp_path, tiny_checkpoint, n_prompts=3)
    (path := tmp_path / "generation.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "rao_kedro.generation.worker", str(path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    while '"done": 1, "total": 3' not in (line := first.stdout.readline()):
        assert line, "the first generation ended too early"
    first.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(BusyError, match=f"another run is at work in {tmp_path}: wait for it, or stop it"):
            generate(spec)
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stdout.startswith(f"rao_kedro error: another run is at work in {tmp_path}")
    finally:
        first.send_signal(signal.SIGCONT)
    first.stdout.read()
    assert first.wait() == 0
    assert len(pd.read_parquet(spec.output_path)) == 3


def launches(directory):
    """Return everything that starts a worker in a directory, or asks judges with their answers kept there."""
    benchmarks, model = BenchmarkParameters(), directory / "model"
    groups, output, reward = directory / "groups", directory / "output", RewardParameters()
    common = {"workspace": directory, "groups_path": groups, "output_path": output}
    scoring = ScoringSpec(**common, model_dir=model)
    policy = PolicyScoringSpec(
        **scoring.model_dump(),
        generations_path=output,
        reference_dir=model,
        reference_path=output,
        reward=reward,
        held_out_path=output,
    )
    held_out = generation_spec(directory)
    server = ServerParameters(model="m", base_url="http://127.0.0.1:9/v1")
    about = {"method": "x", "benchmarks": benchmarks, "workspace": directory}
    return {
        "generation": lambda: generate(held_out),
        "policy answers": lambda: answer(PolicyAnswersSpec(**about, held_out=held_out)),
        "served answers": lambda: answer(ServedAnswersSpec(**about, server=server)),
        "import": lambda: import_model(ModelParameters(source="tiny_random", name="x"), directory),
        "reference": lambda: launch("reference", scoring, Path("cpu.yaml")),
        "annotation": lambda: launch("annotate", AnnotationSpec(**common, reward=reward), Path("cpu.yaml")),
        "scoring": lambda: launch("score_policy", policy, Path("cpu.yaml")),
    }


@pytest.mark.parametrize("role", ["worker", "launcher"])
def test_nothing_is_launched_where_another_run_is_at_work(tmp_path, role):
    for name, start in launches(tmp_path).items():
        with only_one_in(tmp_path, role), pytest.raises(BusyError, match="another run is at work in"):
            start()
            pytest.fail(f"{name} was launched")
    assert not list(tmp_path.glob("*.json"))  # the spec of the other run is as it was


def test_judges_are_not_asked_twice_at_a_time(tmp_path):
    with only_one_in(tmp_path, "node"), pytest.raises(BusyError):
        judge_methods(AlpacaEvalParameters(), MTBenchParameters(), None, None, tmp_path, tmp_path)


@pytest.mark.parametrize(("rank", "status"), [("0", 1), ("1", 0)])
def test_the_first_of_several_processes_takes_the_lock(tmp_path, rank, status):
    worker = "from rao_kedro.workers import worker_main; worker_main(lambda path: None)"
    with only_one_in(tmp_path):
        ended = subprocess.run([sys.executable, "-c", worker, str(tmp_path / "x")], env=os.environ | {"RANK": rank})
    assert ended.returncode == status


def test_several_threads_and_processes_may_write_the_same_file(tmp_path):
    script = "import sys; from pathlib import Path; from rao_kedro.files import write_text\n" + (
        "for _ in range(300): write_text(Path(sys.argv[1]), sys.argv[2] * 100)"
    )
    path = tmp_path / "kept.json"
    others = [subprocess.Popen([sys.executable, "-c", script, str(path), text]) for text in "ab"]
    write_text(path, "c" * 100)
    assert [other.wait() for other in others] == [0, 0]
    assert path.read_text() in {"a" * 100, "b" * 100}
    assert [found.name for found in tmp_path.iterdir()] == ["kept.json"]
