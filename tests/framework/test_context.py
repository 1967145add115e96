"""Parameters and globals: what `--params` may name, where it counts, and how a wrong name is refused."""

import shutil
from pathlib import Path

import pytest
import yaml
from kedro.framework.cli.utils import _split_params
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project

from rao_kedro.config.globals import GlobalParameters
from rao_kedro.errors import ParameterError
from rao_kedro.framework.session import StudySession
from rao_kedro.pipelines.parameters import ProjectParameters
from rao_kedro.pipelines.runs import METHODS

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ["base", "test", "ultrafeedback", "rated_responses", "paper"]
# The others have a strength of another kind.
WITH_BETA = {m for m in METHODS if m not in ("simpo", "slic_hf", "orpo", "rebel", "raft")}


@pytest.fixture(scope="module", autouse=True)
def project():
    bootstrap_project(ROOT)
    configure_project("rao_kedro")


def context(env="test", root=ROOT, **runtime):
    with StudySession.create(root, env=env, runtime_params=runtime) as session:
        return session.load_context()


def on_the_command_line(text):
    return _split_params(None, None, text)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_global_given_by_params_counts_in_every_place_that_takes_it(env):
    given = on_the_command_line(
        "beta=3,training.learning_rate=7e-6,precision=bf16,t0_length=5,methods=rao simpo,responses_per_prompt=2"
    )
    loaded = context(env, **given)
    found, before = loaded.params, context(env).params
    strengths = {
        name: {value for key, value in of.parameters.items() if key in ("beta", "tau", "regularization_weight")}
        for name, of in found["alignment"].items()
    }
    assert {name for name, values in strengths.items() if 3 in values} >= WITH_BETA - {"ipo", "dro"}
    assert found["alignment"]["dro"].parameters["tau"] == (1.0 if env == "paper" else 3)  # set for one method
    assert found["alignment"]["rebel"].parameters == {"eta": 1 / 3}
    assert found["reward_model_study"].dpo.parameters["beta"] == 3
    assert {found["alignment"][name].training.learning_rate for name in ("rao", "dpo", "kto")} == {7e-6}
    assert found["alignment"]["rao"].training.epochs == before["alignment"]["rao"].training.epochs
    assert (found["data"].t0_length, found["methods"]) == (5, ("rao", "simpo"))
    assert {found["alignment"][name].responses_per_prompt for name in ("rao", "dpo")} == {2}
    assert found["reward_benchmarks"].mixed_precision == "bf16"


def trainings(params):
    """The training block of each kind of model."""
    return {
        "sft": params["supervised_finetuning"].training,
        "reward model": params["reward_modeling"].training,
        "reward models of the study": params["reward_model_study"].training,
        "methods": params["alignment"]["rao"].training,
        "DPO of the study": params["reward_model_study"].dpo.training,
        "study": params["likelihood_study"].runs["rao"].training,
    }


SFT, REWARD_MODELS = {"sft"}, {"reward model", "reward models of the study"}
METHODS_OF_STUDY, STUDY = {"methods", "DPO of the study"}, {"study"}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ("training.seed=5", SFT | REWARD_MODELS | METHODS_OF_STUDY | STUDY),
        ("training.learning_rate=5", METHODS_OF_STUDY | STUDY),  # the others say their own
        ("sft_training.epochs=5", SFT),
        ("supervised_finetuning.training.epochs=5", SFT),
        ("reward_model_training.epochs=5", REWARD_MODELS),
        ("reward_modeling.training.epochs=5", {"reward model"}),
        ("alignment_training.epochs=5", METHODS_OF_STUDY),
        ("alignment.rao.training.epochs=5", {"methods"}),
        ("study_training.lora.rank=5", STUDY),
    ],
)
def test_a_value_of_a_training_block_changes_those_that_do_not_differ_in_it(given, changed):
    before, found = (trainings(context("base", **on_the_command_line(text)).params) for text in ("", given))
    assert {name for name in found if found[name] != before[name]} == changed
    value = given.rpartition(".")[2].partition("=")[0]
    of_changed = (found[name] if value != "rank" else found[name].lora for name in changed)
    assert {getattr(block, value) for block in of_changed} == {5}


def test_a_length_is_set_in_one_place():
    names = ("max_prompt_tokens", "max_response_tokens", "max_new_tokens", "max_model_len", "max_tokens_per_batch")
    given = ",".join(f"lengths.{name}={i}" for i, name in enumerate(names, start=11))
    found = context("base", **on_the_command_line(given)).params
    sampled, evaluated = found["data"].sampled.generation, found["evaluation"].generation
    assert (found["data"].max_prompt_tokens, found["data"].max_response_tokens) == (11, 12)
    assert {sampled.sampling.max_tokens, evaluated.sampling.max_tokens} == {13}
    assert {found["kl_to_reference"].max_new_tokens, found["alignment"]["ppo"].rollout.max_new_tokens} == {13}
    assert {sampled.max_model_len, evaluated.max_model_len} == {14}
    assert {block.max_tokens_per_batch for block in trainings(found).values()} == {15}
    assert {found["reference"].max_tokens_per_batch, found["evaluation"].max_tokens_per_batch} == {15}
    scoring = context("base", lengths={"max_tokens_per_scoring_batch": 99}).params
    assert {scoring["reference"].max_tokens_per_batch, scoring["evaluation"].max_tokens_per_batch} == {99}
    assert {block.max_tokens_per_batch for block in trainings(scoring).values()} == {512}


@pytest.mark.parametrize("text", ["rao simpo", ["rao", "simpo"]])
def test_a_list_may_be_a_string_with_blanks(text):
    found = context("test", methods=text, likelihood_study={"only": text}, reward_benchmarks={"names": "rmb"}).params
    assert found["methods"] == found["likelihood_study"].only == ("rao", "simpo")
    assert found["reward_benchmarks"].names == ("rmb",)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_data_root_moves_all_that_a_run_writes(env):
    loaded = context(env, data_root="elsewhere/mine", accelerate="ddp")
    catalog = loaded.catalog
    names = [name for name in catalog if not name.startswith(("params:", "parameters"))]
    paths = {name: getattr(catalog.get(name), "_filepath", getattr(catalog.get(name), "_path", None)) for name in names}
    paths |= {name: catalog.get(name)._filepath for name in ("rao.policy", "training_log_kto")}
    moved = {name for name, path in paths.items() if str(ROOT / "elsewhere/mine") in str(path)}
    assert moved == {*paths} - {"prompts"} and len(moved) > 35
    workers = loaded.params["workers"]
    assert workers.accelerate_config == ROOT / "conf/accelerate/ddp.yaml"
    assert workers.workspaces == ROOT / "elsewhere/mine/workspaces" and workers.in_process == (env == "test")


def test_a_global_with_a_default_may_be_given_though_no_file_has_it():
    loaded = context("test", workspaces="/scratch/mine")
    assert loaded.params["workers"].workspaces == Path("/scratch/mine")
    assert str(loaded.catalog.get("dpo.policy")._filepath).startswith(str(ROOT / "data"))


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_name_that_is_a_global_and_a_block_has_one_value(env):
    loaded = context(env, model={"name": "mine"}, methods="dpo")
    both = {*GlobalParameters.model_fields} & {*ProjectParameters.model_fields}
    of_globals = GlobalParameters.model_validate(loaded.config_loader["globals"])
    assert both >= {"model", "methods"} and "data" not in both
    assert all(getattr(of_globals, name) == loaded.params[name] for name in both)
    assert loaded.params["model"].name == "mine" and loaded.params["methods"] == ("dpo",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("btea=3", "there is no parameter btea: did you mean beta?"),
        ("t0=3", "there is no parameter t0: did you mean t0_length?"),
        ("learning_rate=1", "did you mean training.learning_rate or sft_training.learning_rate"),
        ("alignment_training.learnin_rate=5", "did you mean alignment_training.learning_rate?"),
        ("model.nmae=x", "there is no parameter model.nmae: did you mean model.name?"),
        ("evaluation.generation.smpling.n=3", "did you mean evaluation.generation.sampling?"),
        ("reward_modeling.learning_rate=3", "did you mean reward_modeling.training.learning_rate or"),
        ("alignment.simpoo.parameters.beta=2", "there is no method simpoo: did you mean alignment.simpo?"),
        ("alignment_training.lora.rnk=2", "did you mean alignment_training.lora.rank?"),
        ("zzz=1", "there is no parameter zzz: known are accelerate, alignment, alignment_training"),
        ("beta=strong", "parameter beta: Input should be a valid number"),
        ("beta=-1", "parameter beta: Input should be greater than 0"),
        ("precision=fp16", "parameter precision: Input should be 'no', 'bf16' or 'bf16_weights'"),
        ("data=/mnt/disk", "give one inside it (data.source, data.sampled, "),
        ("rounds=3", "give one inside it (rounds.n, rounds.prompts_per_round, "),
        ("data=/mnt/disk", "data_root"),
    ],
)
def test_a_wrong_name_or_value_is_one_sentence_with_the_nearest_name(given, message):
    with pytest.raises(ParameterError) as refused:
        _ = context("test", **on_the_command_line(given)).params
    assert message in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ParameterError) as refused:
        _ = context("test", **on_the_command_line("btea=3,beta=strong,data.t0_lenght=2,evaluation.exampels=1")).params
    names = {line.removeprefix("there is no ").split()[1].strip(":") for line in str(refused.value).splitlines()}
    assert names == {"btea", "beta", "data.t0_lenght", "evaluation.exampels"}


def test_no_without_quotes_is_a_precision():
    found = context("base", **on_the_command_line("precision=no,alignment_training.mixed_precision=no")).params
    assert (found["alignment"]["rao"].training.mixed_precision, found["reference"].mixed_precision) == ("no", "no")
    assert found["evaluation"].mixed_precision == "no"


@pytest.fixture
def own(tmp_path):
    """A project of its own, whose files may be changed."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def change(path, **values):
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def test_a_global_of_ones_own_is_one_that_some_configuration_uses(own):
    change(own / "conf/test/globals.yml", bucket="mine", data="data/test")
    report = {"type": "text.TextDataset", "filepath": "${globals:bucket}/r.html"}
    (own / "conf/test/catalog.yml").write_text(yaml.safe_dump({"report": report}))
    with pytest.raises(ParameterError) as refused:
        _ = context("test", own).params
    assert str(refused.value) == "globals.yml: there is no parameter data: did you mean data_root?"
    change(own / "conf/test/parameters.yml", kl_to_reference={"prompts": "${globals:data}"})
    change(own / "conf/test/globals.yml", data=3)
    loaded = context("test", own, bucket="yours")
    assert str(loaded.catalog.get("report")._filepath).endswith("yours/r.html")
