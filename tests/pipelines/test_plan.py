"""A run whose plan is bad stops before anything of it is done; a dry run only says what would be done."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline
from projects import run

from rao_kedro.cli import cli
from rao_kedro.errors import DataError, PlanError
from rao_kedro.framework.session import StudySession
from rao_kedro.planning import judges, machine, models
from rao_kedro.planning.checks import problems
from rao_kedro.planning.table import plan_table

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ["base", "test", "ultrafeedback", "rated_responses", "paper"]
PASSWORD = "hunter2secret"
BENCHMARKS = "evaluation.benchmarks"
JUDGED = f"{BENCHMARKS}.names=mt_bench,{BENCHMARKS}.judge.model=j,{BENCHMARKS}.judge.base_url="
WRONG = "supervised_finetuning.training.seed=x"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def refusal(*options):
    """What `kedro run` with these options is refused for: all of it, as the log has it, if not as the console does."""
    result = CliRunner().invoke(cli, ["run", "--env", "test", *options])
    assert result.exit_code == 1 and len(result.output.splitlines()) <= 12, result.output
    return max(Path("logs").iterdir(), key=lambda path: path.stat().st_mtime_ns).read_text()


def written(project):
    return {path for path in project.rglob("*") if path.is_file() and not {"conf", "logs"} & {*path.parts}}


def mlflow_runs(project):
    database = project / "mlflow.db"
    if not database.exists():
        return 0
    with sqlite3.connect(database) as connection:
        return connection.execute("select count(*) from runs").fetchone()[0]


def test_a_bad_plan_is_refused_with_all_that_is_wrong_before_anything_is_written(project):
    before = written(project)
    said = refusal(
        "--params",
        f"{JUDGED}https://judge.example.com/v1,evaluation.benchmarks.mt_bench.judge_prompts=nowhere.jsonl,"
        "evaluation.generation.max_model_len=279,supervised_finetuning.training.max_tokens_per_batch=279,"
        "reward_modeling.reward.name=magic,model.chat_template=no.jinja",
    )
    for part in (
        "parameter model.chat_template: there is no file no.jinja, and no chat template of that name ships: chatml",
        "train_sft: supervised_finetuning.training.max_tokens_per_batch is 279, and a prompt of data.max_prompt_",
        "parameter evaluation.generation.max_model_len (279) is too small",
        "parameter reward_modeling.reward: unknown reward 'magic'",
        "parameter evaluation.benchmarks.mt_bench.judge_prompts: there is no file nowhere.jsonl",
        "judge.example.com wants a key, and the environment variable OPENAI_API_KEY is not set",
    ):
        assert part in said
    assert {path.name for path in written(project) - before} <= {"mlflow.db"} and mlflow_runs(project) == 0


def test_a_password_in_an_address_is_refused_and_stands_nowhere(project):
    before = written(project)
    url = f"https://me:{PASSWORD}@judge.example.com/v1"
    said = refusal("--params", f"{JUDGED}{url}")
    assert "credentials" in said and PASSWORD not in said and mlflow_runs(project) == 0
    assert not [path for path in written(project) - before if PASSWORD.encode() in path.read_bytes()]


def test_a_run_that_does_not_need_what_is_missing_goes_on(project):
    params = {
        "evaluation": {"benchmarks": {"names": "mt_bench", "judge": {"model": "j", "base_url": "https://x.example/v1"}}}
    }
    run(project, "data_engineering", params=params, dry_run=True)
    with pytest.raises(PlanError, match=r"x\.example wants a key"):
        run(project, params=params, dry_run=True)


def test_a_missing_input_and_a_missing_file_are_said_together(project):
    shutil.rmtree(project / "data")
    benchmarks = {"names": "gsm8k", "sources": {"gsm8k": {"path": "gone.jsonl"}}}
    with pytest.raises(DataError) as refused:
        run(project, "evaluation", params={"evaluation": {"benchmarks": benchmarks}})
    said = str(refused.value)
    assert "reward_annotated@path does not exist: run `kedro run --pipelines reward_modeling` first" in said
    assert "evaluation.benchmarks.sources.gsm8k.path: there is no file gone.jsonl" in said
    with pytest.raises(DataError, match=r"prompts does not exist: no pipeline makes it: .*data/01_raw/prompts.jsonl"):
        run(project, "data_engineering")


def test_an_accelerate_file_is_named_with_the_nearest(project):
    with pytest.raises(
        PlanError, match=r"no accelerate file .*ddpp\.yaml, which the global accelerate names: did you mean ddp\?"
    ):
        run(project, env="base", params={"accelerate": "ddpp"}, dry_run=True)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_no_environment_of_the_project_is_refused_on_the_machine_that_it_is_for(project, env, monkeypatch):
    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(machine, "free_bytes", lambda place: 10**13)
    monkeypatch.setattr(models, "_offline", lambda: False)
    monkeypatch.setattr(judges, "unreachable", lambda *_: iter(()))
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    rated(project / "data/01_raw/rated_responses.jsonl", 402, 3, 1)  # a user's own
    with StudySession.create(project, env=env) as session:
        catalog = session.load_context().catalog
    chosen = {None, "sft", "rao", "dpo", "simpo", "ppo"}
    nodes = [node for node in pipelines["study"].nodes if node.namespace in chosen]
    names = {node.name for node in nodes}
    assert {"train_sft", "rao.train", "sft.generate"} <= names
    assert problems(Pipeline(nodes), catalog) == []


def test_a_dry_run_prints_the_nodes_in_their_order_and_writes_nothing(project):
    before = written(project)
    result = CliRunner().invoke(cli, ["run", "--env", "test", "--dry-run", "--params", "methods=rao simpo"])
    assert result.exit_code == 0, result.output
    assert written(project) == before and not (project / "mlflow.db").exists()
    table = result.output[result.output.index("node    ") :].splitlines()
    assert max(map(len, table)) <= 80
    names = [line.split()[0] for line in table[1 : table.index("")]]
    assert names.index("prepare_base_model") < names.index("tokenize") < names.index("train_sft")
    assert names.index("train_sft") < names.index("simpo.train") < names.index("compare_methods")
    assert not any(name.startswith("dpo.") for name in names)
    collected = next(line for line in table if line.startswith("collect_preferences"))
    assert collected.split()[1:4] == ["new", "464", "11,136"]  # 56 + 40 + 20 prompts, four responses of 24 tokens
    assert "? rows, tokens, steps: not known before tokenize has run" in table
    assert "planning" not in result.output
    result = CliRunner().invoke(cli, ["run", "--env", "test", "--dry-run", "--params", WRONG])
    assert result.exit_code == 1 and "error: parameter supervised_finetuning.training.seed: " in result.output


@pytest.mark.parametrize(("model", "state", "of_dro"), [("llama3_8b", 16, 32), ("eurollm_9b", 18, 37)])
def test_the_plan_of_the_paper_has_sizes_and_hours_before_anything_is_downloaded(project, capsys, model, state, of_dro):
    """61,135 groups of 190 + 2 x 270 tokens in 128 a step; 16 bytes a weight on eight GPUs."""
    with pytest.raises(
        PlanError, match="starts 8 processes with a GPU each on this machine, which has none"
    ) as refused:
        run(project, env="paper", params={"model": model}, dry_run=True)
    assert "of memory" not in str(refused.value)
    table = capsys.readouterr().out.splitlines()
    assert max(map(len, table)) <= 80
    sizes = {line.split()[0]: line.split()[2:] for line in table if line.endswith((" h", " min"))}
    rows, tokens, unit, steps, memory = sizes["rao.train"][:5]
    assert (rows, tokens, unit, steps, memory) == ("~61,135", "~134", "M", "~1,434", f"~{state}")
    assert sizes["dro.train"][4] == f"~{of_dro}"
    text = "\n".join(table)
    assert "a GPU has 190 TFLOP/s in training" in text and "61,135 + 2,000 groups" in text
    (last,) = (line.split()[2:] for line in table if line.startswith("ppo.round_8.train "))
    assert (last[0], last[2], last[3]) == ("7,641", "180", f"~{of_dro}")  # both networks, sharded


def rated(path, n, responses, length):
    rows = [
        {
            "prompt": f"{path.stem} question {i}: what is next?",
            "responses": [{"response": f"{k} " * length, "rating": k} for k in range(responses)],
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_plan_counts_groups_that_are_known_and_says_which_are_longer_than_a_pack(project, caplog):
    rated(project / "train.jsonl", 4, 4, 25)
    rated(project / "held_out.jsonl", 4, 2, 25)
    sources = {"train": {"path": "train.jsonl"}, "test": {"path": "held_out.jsonl"}}
    limits = {"max_prompt_tokens": 100, "max_response_tokens": 60, "evaluation_prompts": 2}
    params = {
        "data": {"source": "preferences", "preferences": sources, **limits},
        "reward_modeling": {"training": {"max_tokens_per_batch": 160}},
    }
    run(project, "data_engineering", params=params)
    run(project, "supervised_finetuning", "reward_modeling", params=params, dry_run=True)
    assert "train_reward_model: 4 of 4 training groups are longer than a pack of 160 tokens" in caplog.text
    assert "train_sft: " not in caplog.text
    params["reward_modeling"] = {"training": {"max_tokens_per_batch": 159}}
    with pytest.raises(PlanError, match=r"train_reward_model: .* of data.max_prompt_tokens \(100\)"):
        run(project, "data_engineering", "reward_modeling", params=params, dry_run=True)
    with StudySession.create(project, env="test", runtime_params=params) as session:
        catalog = session.load_context().catalog
    table = plan_table(pipelines["supervised_finetuning"], catalog, {"train_sft": []}).splitlines()
    trained = next(line for line in table if line.startswith("train_sft")).split()
    import pandas as pd

    data = project / "data/test"
    groups = pd.read_parquet(data / "05_model_input/tokenized_groups.parquet").query("split == 'train'")
    tokens = sum(len(g.prompt_ids) + len(g.response_ids[g.chosen]) for g in groups.itertuples())
    assert trained[1:5] == ["new", str(len(groups)), str(tokens), "1"] and len(groups) == 4
