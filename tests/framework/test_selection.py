"""Which nodes a run takes, by the options that select them; nothing runs here."""

import shutil
from pathlib import Path

import pytest
from kedro.framework.project import configure_project, pipelines
from kedro.framework.startup import bootstrap_project
from kedro_viz.integrations.kedro.data_loader import load_data

from rao_kedro.datasets import CheckpointDataset
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.framework.session import StudySession
from rao_kedro.pipelines.runs import METHODS

ROOT = Path(__file__).parents[2]
DATA = {"prepare_base_model", "collect_preferences", "tokenize"}
ANNOTATED = DATA | {"train_sft", "train_reward_model", "annotate_responses"}
COMPARISON = {"compare_methods", "plot_scores", "plot_training", "write_report"}
BENCHMARKED = {"evaluation": {"benchmarks": {"names": "gsm8k"}}}
SEEDS = {"alignment": {"rao": {"seeds": [3, 1]}, "dpo": {"seeds": "0 1"}}}


def of(run, *nodes):
    return {f"{run}.{node}" for node in nodes or ("train", "plot_training", "generate", "score")}


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A project without data."""
    directory = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", directory / "conf")
    shutil.copy(ROOT / "pyproject.toml", directory)
    (directory / "src").mkdir()
    bootstrap_project(directory)
    configure_project("rao_kedro")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(directory)
        patched.setenv("DO_NOT_TRACK", "1")
        yield directory
    bootstrap_project(ROOT)


@pytest.fixture(scope="module")
def sessions(empty):
    """Return sessions by their parameters, each created once."""
    created = {}

    def session(params=None):
        if str(params) not in created:
            created[str(params)] = StudySession.create(empty, env="test", runtime_params=params)
        return created[str(params)]

    return session


@pytest.fixture(scope="module")
def taken(sessions):
    return lambda params=None, **options: {node.name for node in sessions(params).selected(**options).nodes}


@pytest.fixture
def made(empty, sessions):
    """Make datasets exist, as far as a path tells."""

    def make(*names):
        catalog = sessions().load_context().catalog
        for name in names:
            dataset = catalog.get(name)
            path = Path(dataset._filepath)
            path = path / "config.json" if isinstance(dataset, CheckpointDataset) else path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    yield make
    shutil.rmtree(empty / "data", ignore_errors=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"to_outputs": ["simpo.policy"]}, ANNOTATED | of("simpo", "train")),
        ({"to_outputs": ["dpo.policy"]}, ANNOTATED | {"score_reference"} | of("dpo", "train")),
        ({"to_nodes": ["simpo.train"]}, ANNOTATED | of("simpo", "train")),
        ({"to_outputs": ["training_log_orpo"]}, ANNOTATED | of("orpo", "train")),
        ({"node_names": ["slic_hf.train"]}, ANNOTATED | of("slic_hf", "train")),
        ({"node_names": ["kto.train"]}, ANNOTATED | {"score_reference"} | of("kto", "train")),
        ({"namespaces": ["simpo"]}, ANNOTATED | {"score_reference"} | of("simpo")),
        ({"tags": ["simpo"]}, ANNOTATED | {"score_reference"} | of("simpo")),
        ({"namespaces": ["simpo", "rao"]}, ANNOTATED | {"score_reference"} | of("simpo") | of("rao")),
        (
            {"from_nodes": ["simpo.train"]},
            ANNOTATED
            | {"score_reference", "report_rewards", "plot_rewards", "report_feasibility"}
            | of("simpo")
            | of("sft", "generate", "score")
            | COMPARISON,
        ),
        ({"from_inputs": ["simpo.policy"], "to_outputs": ["simpo.generations@pandas"]}, None),
        ({"pipeline_names": ["alignment"], "namespaces": ["simpo"]}, of("simpo", "train", "plot_training")),
        ({"pipeline_names": ["alignment"], "tags": ["orpo"]}, of("orpo", "train", "plot_training")),
        (
            {"pipeline_names": ["alignment"], "namespaces": ["ppo"]},
            {"score_reference"} | of("ppo", "train", "plot_training"),
        ),
        ({"pipeline_names": ["evaluation"], "from_inputs": ["training_log_simpo"]}, None),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_naming_a_method_brings_what_it_needs_and_no_other_method(taken, options, expected):
    found = taken(**options)
    methods = {run for run in (name.split(".")[0] for name in found if "." in name) if run != "sft"}
    named = {name for name in METHODS if any(name in value for values in options.values() for value in values)}
    assert methods == named
    if expected is not None:
        assert found == expected
    assert taken({"methods": "dpo kto"}, **options) == found


def test_a_comparison_that_follows_takes_only_the_named_methods(sessions):
    session = sessions()
    (compare,) = (node for node in session.selected(from_nodes=["simpo.score"]).nodes if node.name == "compare_methods")
    assert {name for name in compare.inputs if name.startswith("scored")} == {
        "scored_generations_sft",
        "scored_generations_simpo",
    }
    assert "simpo.train" in pipelines["alignment"].describe() and "rao.train" not in pipelines["alignment"].describe()


def test_without_a_named_method_those_of_the_parameter_run(taken):
    whole = taken()
    assert {name.split(".")[0] for name in whole if "." in name} == {"sft", "rao", "dpo"}
    assert taken(pipeline_names=["study"]) == taken(to_outputs=["report"]) | {
        name for name in whole if "plot" in name or name == "rao.plot_training"
    }
    assert taken(node_names=["compare_methods"]) == {"compare_methods"}
    assert taken(namespaces=["sft"]) == of("sft", "generate", "score")
    trained = of("rao", "train", "plot_training") | of("dpo", "train", "plot_training")
    assert taken(tags=["alignment"]) == {"score_reference", "report_feasibility"} | trained
    assert not {name for name in taken(from_nodes=["train_sft"]) if name.startswith(("kto.", "simpo."))}


def test_what_is_there_is_not_made_again_and_what_depends_on_the_missing_is(taken, made):
    made("sft_model", "reward_model", "reward_annotated@path", "training_log_rao")
    assert taken(namespaces=["orpo"], pipeline_names=["study"]) - of("orpo") == {
        "tokenize",
        "prepare_base_model",
        "collect_preferences",
        "train_sft",
        "train_reward_model",
        "annotate_responses",
        "score_reference",
    }
    made("evaluation_prompts@path")
    assert taken(namespaces=["orpo"]) == {"score_reference"} | of("orpo")
    made("reference_logprobs@path")
    assert taken(namespaces=["orpo"]) == of("orpo")
    assert taken(node_names=["rao.train"]) == of("rao", "train")


def test_what_is_missing_and_brought_is_said(sessions, caplog):
    with caplog.at_level("INFO", "rao_kedro"):
        sessions().selected(to_nodes=["simpo.train"])
        assert "made first" not in caplog.text
        sessions().selected(node_names=["simpo.train"])
    assert "simpo: what is missing for this is made first: prepare_base_model, collect_preferences," in caplog.text


def test_an_input_of_another_pipeline_is_refused_before_anything_runs_with_what_makes_it(empty):
    with StudySession.create(empty, env="test") as session, pytest.raises(DataError) as refused:
        session.run(pipeline_names=["alignment"], namespaces=["simpo"])
    assert str(refused.value).splitlines() == [
        f"{name} does not exist: run `kedro run --pipelines {pipeline}` first (same --env, same --params)"
        for name, pipeline in (("reward_annotated@path", "reward_modeling"), ("sft_model", "supervised_finetuning"))
    ]
    assert not (empty / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"namespaces": ["simop"]}, "--namespaces simop: there is none of this name; the nearest are simpo, "),
        ({"namespaces": ["simpo", "simop"]}, "--namespaces simop: there is none of this name"),
        ({"tags": ["roa"]}, "--tags roa: there is none of this name; the nearest are rao, "),
        ({"node_names": ["simpo.tran"]}, "--nodes simpo.tran: there is none of this name; the nearest are simpo.train"),
        ({"from_nodes": ["train"]}, "--from-nodes train: there is none of this name; the nearest are "),
        ({"to_nodes": ["dop.score"]}, "--to-nodes dop.score: there is none of this name; the nearest are d"),
        ({"to_outputs": ["simop.policy"]}, "--to-outputs simop.policy: there is none of this name; the nearest are si"),
        ({"to_outputs": ["prompts"]}, "--to-outputs prompts: there is none of this name"),
        ({"from_inputs": ["leaderbord"]}, "--from-inputs leaderbord: there is none of this name; the nearest are lead"),
        ({"pipeline_names": ["alignmet"]}, "--pipelines alignmet: there is none of this name; the nearest are align"),
        ({"pipeline_name": "alignmet"}, "--pipelines alignmet: there is none of this name; the nearest are align"),
        (
            {"pipeline_names": ["evaluation"], "to_outputs": ["simpo.policy"]},
            "--to-outputs simpo.policy: it is not in evaluation, but in alignment: name that in --pipelines too",
        ),
        (
            {"pipeline_names": ["alignment"], "from_inputs": ["reward_model"]},
            "--from-inputs reward_model: no method of this run has it; name one that has",
        ),
        ({"tags": ["benchmarks"]}, "--tags benchmarks: evaluation.benchmarks.names names no benchmark"),
        ({"namespaces": ["rao_seed_7"]}, "rao has no run with this seed: name it in the parameter alignment.rao.seeds"),
        (
            {"node_names": ["rao.train"], "namespaces": ["simpo"]},
            "no node is in all of --nodes rao.train --namespaces simpo: leave one of them out",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_selection_of_nothing_is_an_error_that_says_what_there_is(sessions, options, message):
    with pytest.raises(ParameterError) as refused:
        sessions().run(**options)
    assert message in str(refused.value)


def test_a_run_with_benchmarks_judges_and_compares_on_them(taken):
    compared = {"answer_with_served_models", "judge_methods", "compare_on_benchmarks", "write_benchmark_report"}
    assert compared & taken() == set()
    assert compared <= taken(BENCHMARKED) and compared <= taken(BENCHMARKED, from_nodes=["rao.train"])


def test_a_method_is_trained_and_evaluated_once_per_seed_and_all_are_compared(sessions, taken):
    parameters = sessions(SEEDS).load_context().params["alignment"]
    runs = ("rao", "rao_seed_1", "dpo", "dpo_seed_1")
    assert {run: parameters[run].training.seed for run in runs} == dict(zip(runs, (3, 1, 0, 1), strict=True))
    assert parameters["rao_seed_1"].parameters == parameters["rao"].parameters
    assert {name.split(".")[0] for name in taken(SEEDS) if "." in name} == {"sft", *runs}
    comparisons = [node for node in sessions(SEEDS).selected(pipeline_names=["evaluation"]).nodes if not node.namespace]
    compared = {name.removeprefix("scored_generations_") for node in comparisons for name in node.inputs}
    assert {"sft", *runs} <= compared
    assert taken(SEEDS, pipeline_names=["alignment"], namespaces=["rao_seed_1"]) - {"score_reference"} == of(
        "rao_seed_1", "train", "plot_training"
    )
    by_tag = taken(SEEDS, pipeline_names=["alignment"], tags=["rao"])
    assert {name.split(".")[0] for name in by_tag if "." in name} == {"rao", "rao_seed_1"}
    assert {node.namespace for node in pipelines["alignment"].nodes} == {None, "rao", "rao_seed_1"}
    judged = {node.name: node.inputs for node in sessions(SEEDS | BENCHMARKED).selected().nodes}
    assert {f"benchmark_answers_{run}" for run in ("sft", *runs)} <= {*judged["judge_methods"]}
    assert {f"downstream_scores_{run}" for run in ("sft", *runs)} <= {*judged["compare_on_benchmarks"]}
    assert {f"training_log_{run}" for run in runs} == {*judged["plot_training"]}
    assert "dpo_seed_1.policy" in sessions(SEEDS).load_context().catalog


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        ({"rao": {"seeds": [1, 2, 1]}}, "alignment.rao.seeds: .*1 occurs twice: two runs would be the same"),
        ({"rao": {"seeds": []}}, "alignment.rao.seeds: .*no seed is named"),
        ({"rao": {"seeds": "0 -1"}}, "alignment.rao.seeds.1: .*greater than or equal to 0"),
        ({"rao_seed_1": {"seeds": [1]}}, "there is no method rao_seed_1"),
    ],
)
def test_wrong_seeds_are_refused(empty, alignment, message):
    with pytest.raises(ParameterError, match=message):
        StudySession.create(empty, env="test", runtime_params={"alignment": alignment}).load_context()


def test_seeds_belong_to_methods_of_the_alignment_only(empty):
    study = {"likelihood_study": {"runs": {"rao": {"seeds": [0, 1]}}}}
    with pytest.raises(ParameterError, match=r"there is no parameter likelihood_study.runs.rao.seeds"):
        StudySession.create(empty, env="test", runtime_params=study).load_context()


def test_kedro_viz_shows_what_a_run_takes(empty):
    """It loads the context without this project's hooks and sessions."""
    for parameters, shown in (({}, {"rao", "dpo"}), (SEEDS, {"rao", "rao_seed_1", "dpo", "dpo_seed_1"})):
        catalog, graphs, _ = load_data(empty, "test", extra_params=parameters)
        assert {node.namespace for node in graphs["__default__"].nodes} == {None, "sft", *shown}
        assert {f"params:alignment.{run}" for run in shown} <= {*catalog.keys()}
