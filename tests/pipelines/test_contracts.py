"""What the catalog, the parameters and the pipelines promise each other, in every environment."""

import math
import os
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from parse import parse

from rao_kedro.errors import ParameterError
from rao_kedro.framework.choose_runs import choose_runs
from rao_kedro.framework.config_loader import StudyConfigLoader
from rao_kedro.framework.selection import combine
from rao_kedro.framework.session import StudySession
from rao_kedro.objectives import objective_names
from rao_kedro.pipeline_registry import build_pipelines, register_pipelines
from rao_kedro.pipelines.runs import METHODS, Rounds, Runs

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ["base", "test", "ultrafeedback", "rated_responses", "paper", "gemma3_270m"]


@pytest.fixture(scope="module", autouse=True)
def project():
    bootstrap_project(ROOT)
    configure_project("rao_kedro")


def context(env, **runtime):
    with StudySession.create(ROOT, env=env, runtime_params=runtime) as session:
        return session.load_context()


IN_ROUNDS = {
    "rao": Rounds(2, evaluated=(1,)),
    "simpo": Rounds(2, moves_reference=True),
    "ppo": Rounds(2),
}


def everything(rounds=IN_ROUNDS):
    """All pipelines, with all methods, some in rounds, and a run of each kind of the studies."""
    runs = Runs(
        alignment={method: method for method in METHODS},
        rounds=rounds,
        likelihood_study={"dpo": "dpo", "rao_beta_0.1": "rao"},
        reward_model_study={f"{form}_seed_0": (form, "small", 0) for form in ("base", "sft", "dpo_implicit")},
        benchmarks=True,
        base_model=True,
        conversations=True,
    )
    return combine(every := build_pipelines(runs), every)


def test_without_fine_tuning_the_base_model_is_where_policies_start_and_what_they_are_compared_with():
    runs = choose_runs(context("test", supervised_finetuning={"start": "none"}).params)
    built = build_pipelines(runs)
    study = built["study"]
    assert not study.datasets() & {"sft_model", "sft_training_log"} and not built["supervised_finetuning"].nodes
    reads = {node.name for node in study.nodes if "base_model" in node.inputs}
    assert reads >= {"train_reward_model", "score_reference", "rao.train", "dpo.train", "sft.generate", "rao.score"}
    every = {node.name for node in build_pipelines(Runs(runs.alignment))["study"].nodes}
    assert every - {node.name for node in study.nodes} == {"train_sft", "plot_sft_training"}
    with pytest.raises(ParameterError, match=r"supervised_finetuning\.start is none, so that nothing is fine-tuned"):
        combine(["supervised_finetuning"], built)


def test_the_base_model_is_measured_beside_the_others_where_it_is_asked_for():
    without, with_it = (
        build_pipelines(choose_runs(context("test", evaluation={"base_model": asked}).params))["evaluation"]
        for asked in (False, True)
    )
    added = {node.name for node in with_it.nodes} - {node.name for node in without.nodes}
    assert added == {"base.generate", "base.score"}
    reads = {node.name: set(node.inputs) for node in with_it.nodes}
    assert "base_model" in reads["base.generate"] and {"base_model", "sft_model"} <= reads["base.score"]
    assert "scored_generations_base" in reads["compare_methods"] & reads["write_report"]
    given = {"evaluation": {"base_model": True}, "supervised_finetuning": {"start": "none"}}
    with pytest.raises(ParameterError, match=r"evaluation\.base_model: supervised_finetuning\.start is none"):
        context("test", **given)


def test_conversations_take_the_place_of_groups_in_fine_tuning_if_they_are_given():
    source = {"train": {"path": "conversations.jsonl"}}
    with_them, without, untuned = (
        choose_runs(context("test", **runtime).params)
        for runtime in (
            {"data": {"conversations": source}},
            {},
            {"data": {"conversations": source}, "supervised_finetuning": {"start": "none"}},
        )
    )
    made = {"conversations", "tokenized_conversations", "quarantined_conversations", "conversation_report"}
    (sft,) = (node for node in build_pipelines(with_them)["study"].nodes if node.name == "train_sft")
    assert "tokenized_conversations" in sft.inputs and "tokenized_groups@path" not in sft.inputs
    assert made <= build_pipelines(with_them)["data_engineering"].all_outputs()
    for runs in (without, untuned):
        assert not made & build_pipelines(runs)["study"].datasets()


def datasets():
    return {name for name in everything().datasets() if not name.startswith("params:")}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_dataset_of_every_pipeline_is_catalogued(env):
    catalog = context(env).catalog
    names = datasets()
    uncatalogued = [name for name in names if catalog.get(name) is None]
    assert uncatalogued == []
    assert "MemoryDataset" not in {type(catalog.get(name)).__name__ for name in names}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_parameter_is_there_and_valid(env):
    catalog = context(env).catalog  # all parameters are validated here
    needed = {name for name in everything().inputs() if name.startswith("params:")}
    assert {name for name in needed if name not in catalog} == set()


def test_the_layers_of_kedro_viz_point_one_way():
    """Where they form a cycle, kedro-viz shows none of them."""
    catalog = context("base").catalog
    layer_of = {name: catalog.get(name).metadata["kedro-viz"]["layer"] for name in datasets()}
    parents = {layer: set() for layer in layer_of.values()}
    for node in everything().nodes:
        before, after = ({layer_of[name] for name in part if name in layer_of} for part in (node.inputs, node.outputs))
        for layer in after:
            parents[layer] |= before - {layer}
    assert next(TopologicalSorter(parents).static_order()) == "raw"


def test_every_catalog_entry_is_used_by_a_pipeline():
    config = StudyConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")
    entries = {name for name in config["catalog"] if not name.startswith("_")}
    used = everything().datasets() | {"third_judgments", "third_figure"}  # of a benchmark that a user registers
    assert {entry for entry in entries if not any(parse(entry, name) for name in used)} == set()


def test_every_file_that_a_node_writes_is_written_whole_or_not_at_all():
    config = StudyConfigLoader(str(ROOT / "conf"), base_env="base", default_run_env="base")
    others = {name for name, entry in config["catalog"].items() if not entry["type"].startswith("rao_kedro.datasets.")}
    assert others == everything().inputs() & {"prompts"}


def test_data_may_lie_elsewhere_if_the_workspaces_do_not(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    settings = tmp_path / "conf/local/globals.yml"
    settings.write_text("data_root: memory://bucket/study")
    with StudySession.create(tmp_path) as session, pytest.raises(ParameterError) as refused:
        _ = session.load_context().catalog
    said = str(refused.value)
    assert said.startswith("parameter workers.workspaces: ") and len(said.splitlines()) == 1
    assert "memory://bucket/study/workspaces is not on this machine" in said and "set `workspaces` in globals" in said
    settings.write_text("data_root: memory://bucket/study\nworkspaces: work")
    with StudySession.create(tmp_path) as session:
        loaded = session.load_context()
    assert loaded.params["workers"].workspaces == tmp_path / "work"
    catalog = loaded.catalog
    assert catalog.get("rao.policy")._protocol == catalog.get("leaderboard")._protocol == "memory"
    assert not catalog.exists("rao.policy")


def test_each_model_of_the_paper_has_data_of_its_own():
    """tests/pipelines/test_paper_facts.py has the models, the data and the hyperparameters."""
    for given, name in [({}, "llama3_8b"), ({"model": "qwen2_5_7b"}, "qwen2_5_7b")]:
        loaded = context("paper", **given)
        assert loaded.catalog.get("rao.policy")._filepath == ROOT / "data" / name / "06_models/rao"
    with pytest.raises(ParameterError, match="no model 'gpt2' in the environment paper: choose one of eurollm_9b, lla"):
        context("paper", model="gpt2")


def test_the_paper_trains_and_generates_on_as_many_gpus_as_accelerate_starts():
    loaded = context("paper")
    launch = load_config_from_file(str(loaded.params["workers"].accelerate_config))
    assert launch.fsdp_config["fsdp_version"] == 2 and launch.num_processes == 8
    generation, data = loaded.params["evaluation"].generation, loaded.params["data"]
    engines = generation.engine.data_parallel_size
    assert engines == launch.num_processes == math.ceil(data.evaluation_prompts / generation.shard_size)


def test_what_is_set_for_one_method_stays_as_it_is_for_the_others():
    """They share a global: one that is changed in place is changed for all."""
    training = {"training": {"learning_rate": 1.0, "epochs": 7}}
    found = context("test", alignment={"rao": training}, reward_modeling=training).params
    alignment = found["alignment"]
    assert (alignment["rao"].training.learning_rate, alignment["rao"].training.epochs) == (1.0, 7)
    assert {alignment[name].training.epochs for name in METHODS if name != "rao"} == {1}
    assert (found["reward_modeling"].training.epochs, found["reward_model_study"].training.epochs) == (7, 1)


@pytest.mark.parametrize(("lock", "extra"), [("requirements.txt", "cpu"), ("requirements-gpu.txt", "gpu")])
def test_a_lock_holds_a_version_that_pyproject_allows_of_every_dependency(lock, extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"][extra],
        *project["optional-dependencies"]["dev"],
    ]
    pins = (Requirement(line) for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#"))
    locked = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    locked.setdefault("torch", "2.13.0")  # the Makefile installs it first
    for requirement in map(Requirement, wanted):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement


@pytest.mark.parametrize("path", sorted((ROOT / "conf/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_file_is_one_that_accelerate_reads(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= config.num_machines >= 1
    assert set(yaml.safe_load(path.read_text())) <= set(vars(config)) | {"distributed_type", "compute_environment"}


def test_the_registry_loads_without_heavy_imports():
    code = """
import sys
from rao_kedro.pipeline_registry import register_pipelines
register_pipelines()
print({"torch", "transformers", "vllm", "scipy"} & set(sys.modules) or "light")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "light"


def test_tasks_of_the_harness_alone_are_benchmarks():
    given = {"evaluation": {"benchmarks": {"harness": {"tasks": "ifeval"}}}}
    own_tasks = context("base", **given).params["evaluation"].benchmarks
    assert own_tasks.chosen and not own_tasks.names
    assert not context("base").params["evaluation"].benchmarks.chosen


def test_keys_of_the_credentials_reach_the_environment_and_set_ones_stay(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf/local").mkdir(exist_ok=True)
    keys = {"api_keys": {"RAO_TEST_KEY": "secret", "RAO_TEST_SET_KEY": "other"}}
    (tmp_path / "conf/local/credentials.yml").write_text(yaml.safe_dump(keys))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setenv("RAO_TEST_SET_KEY", "set before")
    monkeypatch.setenv("RAO_TEST_KEY", "")  # so that it is removed afterwards
    monkeypatch.delenv("RAO_TEST_KEY")
    with StudySession.create(tmp_path) as session:
        found = session.load_context()
    assert (os.environ["RAO_TEST_KEY"], os.environ["RAO_TEST_SET_KEY"]) == ("secret", "set before")
    assert "secret" not in repr(found.params)


def test_every_objective_is_a_method_with_parameters_of_its_own():
    assert set(METHODS) == set(objective_names())
    alignment = context("base").params["alignment"]
    assert {name: method.objective for name, method in alignment.items()} == {name: name for name in METHODS}


def test_all_methods_have_the_same_shape():
    nodes = everything(rounds={}).nodes
    shapes = {
        method: sorted(node.name.removeprefix(f"{method}.") for node in nodes if node.namespace == method)
        for method in METHODS
    }
    assert len(set(map(tuple, shapes.values()))) == 1
    assert shapes["rao"] == [
        "assemble_model",
        "generate",
        "plot_training",
        "push",
        "score",
        "train",
        "write_model_card",
    ]


def test_the_default_pipeline_is_the_study_with_two_methods():
    default, study = (register_pipelines()[name] for name in ("__default__", "study"))
    assert {node.namespace for node in default.nodes} == {None, "sft", "rao", "dpo"}
    assert {node.name for node in default.nodes} <= {node.name for node in study.nodes}
    assert default.inputs() - {"benchmark_files"} <= study.inputs()  # which no benchmark needs
