"""Workers and their specs, and one run at a time in a directory."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from launching import IN_PROCESS, workers_in

from rao_kedro import workers
from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.generation import GenerationSpec, SamplingParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.servers import ServerParameters
from rao_kedro.config.specs import AnnotationSpec, ModelImportSpec, PolicyScoringSpec, ScoringSpec
from rao_kedro.errors import BusyError, ModelError, RaoKedroError
from rao_kedro.evals.parameters import BenchmarkParameters
from rao_kedro.evals.specs import PolicyResponsesSpec, ServedResponsesSpec
from rao_kedro.files import only_one_in, write_text
from rao_kedro.pipelines.evaluation.benchmark_nodes import judge_methods
from rao_kedro.workers import Spec, launch

STARTED = IN_PROCESS.model_copy(update={"in_process": False})


def every_spec(kind=Spec):
    return {kind} | {spec for sub in kind.__subclasses__() for spec in every_spec(sub)}


def test_every_spec_names_a_worker_and_its_error():
    named = {spec for spec in every_spec() if hasattr(spec, "worker")}
    assert len(named) == 12 and {spec.__name__ for spec in every_spec() - named} == {
        *("Spec", "GroupsSpec", "ModelSpec", "ResponsesSpec")
    }
    for spec in named:
        assert callable(importlib.import_module(spec.worker).main) and issubclass(spec.error, RaoKedroError)


def test_only_workers_on_groups_are_started_by_accelerate_and_the_users_environment_wins(tmp_path, monkeypatch):
    started = {}
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setattr(workers, "run_program", lambda command, environment: started.update({command[-2]: environment}))
    commands = []
    monkeypatch.setattr(workers.shlex, "split", lambda text: commands.append(text) or [])
    for spec in specs_in(tmp_path).values():
        monkeypatch.setattr(type(spec), "outputs", ())
        launch(spec, STARTED, metric_prefix="rao.")
    assert len(commands) == 3 and len(started) == 7
    memory = {worker: "MALLOC_TOP_PAD_" in environment for worker, environment in started.items()}
    assert {worker for worker, has in memory.items() if has} == {
        *("rao_kedro.scoring.reference", "rao_kedro.rewards.worker", "rao_kedro.evals.score_policy")
    }
    assert started["rao_kedro.evals.policy_responses"]["TQDM_DISABLE"] == "0"
    assert {environment["RAO_KEDRO_METRIC_PREFIX"] for environment in started.values()} == {"rao."}


def test_a_worker_that_fails_raises_the_error_of_its_spec_with_its_own_words(tmp_path):
    model = ModelParameters(source="checkpoint", name=str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"^base model: .*nowhere"):
        launch(ModelImportSpec(model=model, output_dir=tmp_path / "model"), STARTED)


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
            launch(spec, STARTED)
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 1
        assert second.stdout.startswith(f"rao_kedro error: another run is at work in {tmp_path}")
    finally:
        first.send_signal(signal.SIGCONT)
    first.stdout.read()
    assert first.wait() == 0
    assert len(pd.read_parquet(spec.output_path)) == 3


def specs_in(directory):
    """Return a spec of every kind whose worker uses a directory."""
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
        "generation": held_out,
        "policy answers": PolicyResponsesSpec(**about, held_out=held_out),
        "served answers": ServedResponsesSpec(**about, server=server),
        "import": ModelImportSpec(model=ModelParameters(source="tiny_random", name="x"), output_dir=model),
        "reference": scoring,
        "annotation": AnnotationSpec(**common, reward=reward),
        "scoring": policy,
    }


@pytest.mark.parametrize("role", ["worker", "launcher"])
def test_nothing_is_launched_where_another_run_is_at_work(tmp_path, role):
    for name, spec in specs_in(tmp_path).items():
        with only_one_in(tmp_path, role), pytest.raises(BusyError, match="another run is at work in"):
            launch(spec, STARTED)
            pytest.fail(f"{name} was launched")
    assert not list(tmp_path.glob("*.json"))  # the spec of the other run is as it was


def test_judges_are_not_asked_twice_at_a_time(tmp_path):
    workers = workers_in(tmp_path)
    with workers.reserve("judge"), pytest.raises(BusyError):
        judge_methods(None, None, tmp_path, workers)


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
