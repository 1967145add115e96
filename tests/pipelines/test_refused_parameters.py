"""Wrong parameters are refused by their names before anything runs, and a secret is not quoted."""

import traceback
from pathlib import Path

import pytest
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project
from launching import workers_in

from rao_kedro.errors import ParameterError
from rao_kedro.framework.session import StudySession
from rao_kedro.pipelines.evaluation.benchmark_nodes import answer_with_served_models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def project():
    bootstrap_project(ROOT)
    configure_project("rao_kedro")


def context(env, **runtime):
    with StudySession.create(ROOT, env=env, runtime_params=runtime) as session:
        return session.load_context()


def served(*names):
    return {
        "evaluation": {
            "benchmarks": {"served_models": {name: {"model": "m", "base_url": "http://u/v1"} for name in names}}
        }
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"alignment": {"rao": {"objective": "roa"}}}, "unknown objective 'roa': choose one of rao, dpo"),
        ({"alignment": {"rao": {"parameters": {"betta": 1}}}}, "objective 'rao' has no parameter betta; it takes beta"),
        ({"alignment": {"dpo": {"training": {"learning_rate": "fast"}}}}, "learning_rate"),
        (
            {"alignment": {"dpo": {"rollout": {"max_new_tokens": 5}}}},
            "objective dpo samples no responses: leave rollout out",
        ),
        ({"alignment": {"dpo": {"trainings": {}}}}, "trainings"),
        ({"likelihood_study": {"panels": {"x": ["roa"]}}}, "names unknown runs: roa"),
        ({"likelihood_study": {"only": "rao roa"}}, "likelihood_study.only names unknown runs: roa"),
        (
            {"reward_model_study": {"forms": "sft magic"}},
            r"reward_model_study\.forms\.1: Input should be 'base', 'sft' or 'dpo_implicit'",
        ),
        ({"data": {"source": "prefs"}}, "'sampled' or 'preferences'"),
        (
            {"data": {"evaluation_prompts": 3}},
            r"test_prompts \(16\) are the first of data.evaluation_prompts, of which there",
        ),
        ({"alignment": {"rao": {"pairs": "all"}}}, "objective rao: pairs: all is for the pairwise methods"),
        ({"alignment": {"dpo": {"responses_per_prompt": 1}}}, "greater than or equal to 2"),
        ({"data": {"t0_lenght": 3}}, "no parameter data.t0_lenght: did you mean data.t0_length"),
        ({"evaluation": {"exmples": 3}}, "no parameter evaluation.exmples: did you mean evaluation.examples"),
        (
            {"reward_modeling": {"centring": 0.0}},
            "did you mean reward_modeling.centering",
        ),
        ({"reward_modeling": {"length_penalty": -0.1}}, "length_penalty.*greater than or equal to 0"),
        ({"reward_modeling": {"normalisation": "quantiles"}}, "'quantile' or 'quantile_per_prompt'"),
        ({"btea": 0.1}, "no parameter btea: did you mean beta"),
        ({"data": {"source": "preferences"}}, "data.source is preferences, but data.preferences is not set"),
        (
            {
                "evaluation": {
                    "benchmarks": {"names": "mmlu", "served_models": {"x": {"model": "m", "base_url": "http://u/v1"}}}
                }
            },
            "mmlu compares log-probs behind plain text",
        ),
        (
            {"evaluation": {"benchmarks": {"judge": {"model": "m"}, "second_judge": {"model": "m"}}}},
            "judge and second_judge are the same model",
        ),
        ({"evaluation": {"generation": {"backend": "llamacpp"}}}, "'auto', 'vllm' or 'transformers'"),
        (served("../../x"), r"served_models.*'\.\./\.\./x' becomes the name of a file: use up to 100 letters"),
        (served(".made_from"), "'.made_from' becomes the name of a file"),
        (served("x" * 101), "becomes the name of a file"),
        (served("api", "API"), "'api' and 'API' become the same name of a file or namespace"),
        ({"likelihood_study": {"runs": {"..": {}}}}, r"likelihood_study.runs.*'\.\.' becomes the name of a file"),
        ({"reward_model_study": {"sizes": {"a/b": 3}}}, r"'a/b' becomes the name of a file"),
        (
            {"evaluation": {"generation": {"sampling": {"stop": [""]}}}},
            r"sampling\.stop\.0: String should have at least",
        ),
        (
            {"evaluation": {"generation": {"engine": {"lora_path": "adapter"}}}},
            "every policy would answer with this adapter and be scored without it",
        ),
        (
            {"data": {"sampled": {"generation": {"chat_template_kwargs": {"enable_thinking": True}}}}},
            "training writes prompts without them",
        ),
        ({"alignment": {"ppo": {"rollout": {"top_p": 0.9}}}}, r"there is no parameter alignment\.ppo\.rollout\.top_p"),
        (
            {
                "evaluation": {
                    "benchmarks": {"judge": {"model": "m", "base_url": "http://u/v1", "engine": {"max_num_seqs": 4}}}
                }
            },
            "engine is for a judge that vLLM serves here",
        ),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_before_anything_runs(override, message):
    with pytest.raises(Exception, match=message):
        _ = context("base", **override).params


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"base_url": "https://me:sk-secret@host/v1"}, "base_url holds credentials"),
        (
            {"base_url": "https://host/v1?api_key=sk-secret"},
            r"base_url has a query \(\?\.\.\.\), where a key could stand",
        ),
        ({"base_url": "me:sk-secret@host/v1"}, "base_url holds credentials"),
        (
            {"base_url": "http://host/v1", "api_key_variable": "sk-secret"},
            "must be the name of an environment variable",
        ),
    ],
)
@pytest.mark.parametrize("place", ["judge", "second_judge", "served_models", "reward", "part of a reward", "rollouts"])
def test_a_secret_in_the_parameters_is_refused_before_anything_runs_and_not_quoted(server, message, place, caplog):
    server = {"model": "m", **server}
    generative = {"name": "generative", "parameters": server}
    override = {
        "judge": {"evaluation": {"benchmarks": {"judge": server}}},
        "second_judge": {"evaluation": {"benchmarks": {"second_judge": server}}},
        "served_models": {"evaluation": {"benchmarks": {"served_models": {"api": server}}}},
        "reward": {"reward_modeling": {"reward": generative}},
        "part of a reward": {"evaluation": {"reward": {"name": "combined", "parameters": {"parts": [generative]}}}},
        "rollouts": {"alignment": {"ppo": {"rollout": {"reward": generative}}}},
    }[place]
    with pytest.raises(Exception, match=message) as error:  # Kedro's own, where a node is given the whole block
        _ = context("base", **override).params
    assert "sk-secret" not in "".join(traceback.format_exception(error.value)) + caplog.text


@pytest.mark.parametrize("name", ["rao", "sft", "rao_seed_1"])
def test_a_served_model_cannot_be_called_as_a_method_is(tmp_path, name):
    evaluation = context("base", **served(name)).params["evaluation"]
    with pytest.raises(ParameterError, match=f"{name} is the name of a method"):
        answer_with_served_models(evaluation.benchmarks.served_models, tmp_path, workers_in(tmp_path))
