"""`--env paper` is what `paper_facts.yml` says of the paper, and of the points that the paper leaves open."""

from pathlib import Path

import pytest
import yaml
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project

from rao_kedro.framework.session import StudySession

ROOT = Path(__file__).parents[2]
FACTS = yaml.safe_load((ROOT / "tests/assets/paper_facts.yml").read_text())
SOURCES = ("at", "known_from")
MODELS = [name for name in FACTS["models"] if name not in SOURCES]


@pytest.fixture(scope="module", params=MODELS)
def setting(request):
    """The name of a model of the paper, and the parameters of its setting."""
    bootstrap_project(ROOT)
    configure_project("rao_kedro")
    with StudySession.create(ROOT, env="paper", runtime_params={"model": request.param}) as session:
        return request.param, session.load_context().params


def test_every_fact_says_where_it_is_from():
    assert all(any(FACTS[block].get(source) for source in SOURCES) for block in FACTS)
    assert len(MODELS) == 3


def test_the_models_are_base_models_with_the_templates_of_their_chat_derivatives(setting):
    name, params = setting
    fact, model = FACTS["models"][name], params["model"]
    assert (model.source, model.name) == ("checkpoint", fact["base"])
    assert model.chat_template.model == fact["chat_derivative"] != model.name


def test_sft_learns_ultrachat_from_the_base_model_in_two_epochs_and_keeps_the_best_checkpoint(setting):
    _, params = setting
    fact, sft, conversations = (
        FACTS["supervised_finetuning"],
        params["supervised_finetuning"],
        params["data"].conversations,
    )
    assert sft.start == fact["start"]
    assert (sft.training.epochs, sft.training.keep) == (fact["epochs"], fact["keep"])
    assert sft.training.learning_rate == fact["learning_rate"]["value"] and fact["learning_rate"]["known_from"]
    train, validation = conversations.train, conversations.validation
    assert {train.hub_id, validation.hub_id} == {fact["data"]} and train.max_rows is validation.max_rows is None
    assert (train.split, validation.split) == (fact["train"], fact["validation"])
    assert params["planning"].conversations.train == fact["rows"]


def test_the_reward_model_is_trained_from_the_sft_model_on_pairs_of_the_best_and_a_random_response(setting):
    _, params = setting
    fact, found = FACTS["reward_model"], params["reward_modeling"]
    assert (found.start, found.reward.name) == (fact["start"], fact["reward"])
    assert found.training.learning_rate == fact["learning_rate"]
    fact, data = FACTS["preferences"], params["data"]
    train = data.preferences.train
    assert (data.source, train.hub_id, train.split) == ("preferences", fact["data"], fact["train"])
    assert train.max_rows is None and data.pairing == fact["pairing"]
    planned = params["planning"].groups
    assert (planned.train, planned.responses) == (fact["rows"], fact["responses"])


def test_all_methods_are_those_of_table_4_with_values_of_its_ranges(setting):
    _, params = setting
    fact, methods = FACTS["alignment"], {name: of for name, of in FACTS["methods"].items() if name != "at"}
    assert {*params["methods"]} == {*methods} and len(methods) == 10
    for name, facts in methods.items():
        method = params["alignment"][name]
        training = method.training
        assert (method.objective, training.epochs) == (name, fact["epochs"])
        assert training.keep == fact["keep"] or "keep" in facts
        for parameter, of in facts.items():
            of_training = parameter in ("learning_rate", "keep")
            found = getattr(training, parameter) if of_training else method.parameters[parameter]
            if "instead" in of:
                assert found == of["instead"]["value"] and of["instead"]["known_from"]
            elif "between" in of:
                assert of["between"][0] <= found <= of["between"][1]
            else:
                assert found in of["range"], (name, parameter)
            assert found == of.get("value", found), (name, parameter)


def test_rao_is_that_of_algorithm_1(setting):
    from rao_kedro.objectives import make_objective

    _, params = setting
    fact, rao = FACTS["alignment"], make_objective("rao", **params["alignment"]["rao"].parameters)
    assert (rao.prompt_term, rao.reduction) == (fact["prompt_term"]["value"], fact["reduction"]["value"])
    assert params["data"].t0_length == fact["t0_length"]


def test_benchmarks_are_those_of_the_papers_tables(setting):
    _, params = setting
    assert [*params["evaluation"].benchmarks.names] == FACTS["evaluation"]["benchmarks"]


def test_what_the_paper_leaves_open_is_what_is_said_to_be_chosen(setting):
    _, params = setting
    fact, data = FACTS["chosen"], params["data"]
    assert data.max_prompt_tokens == fact["max_prompt_tokens"]
    assert data.max_conversation_tokens == fact["max_conversation_tokens"]
    trainings = [params["alignment"][name].training for name in params["methods"]]
    for training in [*trainings, params["reward_modeling"].training, params["supervised_finetuning"].training]:
        found = (training.batch_size, training.lr_scheduler, training.warmup_ratio)
        assert found == (fact["batch_size"], fact["lr_scheduler"], fact["warmup_ratio"])
