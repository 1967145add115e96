"""Which runs a command takes: asked of one function, with parameters and options and nothing else."""

from pathlib import Path

import pytest
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project

from rao_kedro.errors import ParameterError
from rao_kedro.framework.choose_runs import Selection, choose_runs
from rao_kedro.framework.session import StudySession

ROOT = Path(__file__).parents[2]
SEEDS = {"alignment": {"rao": {"seeds": [3, 1]}, "kto": {"seeds": [0, 7]}}}


@pytest.fixture(scope="module")
def parameters():
    bootstrap_project(ROOT)
    configure_project("rao_kedro")
    return StudySession.create(ROOT, env="test", runtime_params=SEEDS).load_context().params


def chosen(parameters, **options):
    return choose_runs(parameters, Selection.from_options(**options))


def test_without_options_the_parameter_methods_chooses_with_all_seeds_in_its_order(parameters):
    found = choose_runs(parameters | {"methods": ("dpo", "rao")})
    assert dict(found.alignment) == {"dpo": "dpo", "rao": "rao", "rao_seed_1": "rao"}
    assert [*found.alignment] == ["dpo", "rao", "rao_seed_1"] and found.named == () and not found.benchmarks


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"namespaces": ["simpo"]}, ["simpo"]),
        ({"namespaces": ["kto_seed_7", "rao"]}, ["rao", "kto_seed_7"]),
        ({"tags": ["kto"]}, ["kto", "kto_seed_7"]),
        ({"tags": ["kto_seed_7"]}, ["kto_seed_7"]),
        ({"node_names": ["simpo.train"]}, ["simpo"]),
        ({"from_nodes": ["simpo.score"]}, ["simpo"]),
        ({"to_nodes": ["rao_seed_1.generate"]}, ["rao_seed_1"]),
        ({"to_outputs": ["orpo.policy"]}, ["orpo"]),
        ({"to_outputs": ["training_log_orpo"]}, ["orpo"]),
        ({"from_inputs": ["orpo.generations"]}, ["orpo"]),
    ],
    ids=str,
)
def test_a_run_is_named_by_its_namespace_its_tag_or_a_node_or_dataset_of_its_own(parameters, options, runs):
    found = chosen(parameters, **options)
    assert [*found.alignment] == runs and found.named == tuple(runs)


@pytest.mark.parametrize(
    "options",
    [
        {"pipeline_names": ["alignment"]},
        {"tags": ["evaluation"]},
        {"node_names": ["compare_methods", "nothing"]},
        {"namespaces": ["sft"]},
        {"from_inputs": ["reward_model"]},
        {"to_outputs": ["leaderboard", "reward_annotated"]},
        {"namespaces": None, "tags": ()},
    ],
    ids=str,
)
def test_options_that_name_no_run_leave_the_choice_to_the_parameters(parameters, options):
    found = chosen(parameters, **options)
    assert [*found.alignment] == ["rao", "rao_seed_1", "dpo"] and found.named == ()


def test_the_runs_of_a_study_are_those_of_only_or_the_named_ones(parameters):
    study = parameters["likelihood_study"]
    assert [*choose_runs(parameters).likelihood_study] == [*study.runs]
    only = parameters | {"likelihood_study": study.model_copy(update={"only": ("rao_beta_0.1", "dpo")})}
    assert dict(choose_runs(only).likelihood_study) == {"rao_beta_0.1": "rao", "dpo": "dpo"}
    found = chosen(only, namespaces=["likelihood_study.rao_beta_0_025"])
    assert dict(found.likelihood_study) == {"rao_beta_0.025": "rao"}
    assert [*found.alignment] == ["rao", "rao_seed_1", "dpo"]  # methods are named by names of their own
    assert [*chosen(only, namespaces=["likelihood_study"]).likelihood_study] == ["rao_beta_0.1", "dpo"]


def test_the_runs_of_the_reward_model_study_are_its_forms_times_sizes_times_seeds_or_the_named_ones(parameters):
    study = parameters["reward_model_study"].model_copy(update={"forms": ("sft", "base"), "seeds": 2})
    found = choose_runs(parameters | {"reward_model_study": study}).reward_model_study
    assert len(found) == 2 * 2 * 2 and found["base_small_seed_1"] == ("base", "small", 1)
    named = chosen(parameters, namespaces=["reward_model_study.dpo_implicit_large_seed_0"])
    assert dict(named.reward_model_study) == {"dpo_implicit_large_seed_0": ("dpo_implicit", "large", 0)}


@pytest.mark.parametrize(
    ("methods", "message"), [(("rao", "roa"), "unknown roa; choose from rao dpo"), ((), "names none")]
)
def test_a_parameter_that_names_no_method_is_refused(parameters, methods, message):
    with pytest.raises(ParameterError, match=f"parameter methods:? {message}"):
        choose_runs(parameters | {"methods": methods})


def test_an_option_that_selects_nothing_known_to_kedro_is_refused():
    with pytest.raises(TypeError, match="namespace"):
        Selection.from_options(namespace=["rao"])
