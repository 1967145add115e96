"""Environments that build on each other, globals that refer to each other, and the model that a name picks."""

import pytest
import yaml

from rao_kedro.errors import ParameterError
from rao_kedro.framework.config_loader import StudyConfigLoader

BASE = {
    "beta": 0.05,
    "precision": "bf16",
    "model": {"source": "gguf_package", "name": "small", "revision": None},
    "data_root": "data",
    "training": {"epochs": 2, "learning_rate": 1e-3, "mixed_precision": "${precision}"},
    "sft_training": {"epochs": 1},
}
PAPER = {
    "model": "llama",
    "models": {
        "llama": {"model": {"source": "checkpoint", "name": "meta/llama"}, "data_root": "data/llama"},
        "qwen": {"model": {"source": "checkpoint", "name": "qwen/qwen"}, "data_root": "data/qwen", "beta": 0.5},
    },
    "beta": 0.1,
    "training": {"epochs": 3},
}


@pytest.fixture
def conf(tmp_path):
    """A configuration with an environment `paper`, and `mine`, which extends it."""
    (tmp_path / "local").mkdir()
    write(tmp_path, "base", BASE)
    write(
        tmp_path,
        "base",
        {
            "supervised_finetuning": "${merge:${globals:training},${globals:sft_training}}",
            "study": {"training": "${globals:training}", "groups": 3},
            "model": "${globals:model}",
        },
        "parameters.yml",
    )
    write(
        tmp_path, "base", {"report": {"type": "text.TextDataset", "filepath": "${globals:data_root}/r"}}, "catalog.yml"
    )
    write(tmp_path, "paper", PAPER)
    write(tmp_path, "paper", {"study": {"groups": 10}}, "parameters.yml")
    write(tmp_path, "paper", {"report": {"type": "MemoryDataset"}}, "catalog.yml")
    write(tmp_path, "mine", {"extends": "paper", "training": {"learning_rate": 1e-5}})
    write(tmp_path, "mine", {"study": {"training": {"seed": 7}}}, "parameters.yml")
    return tmp_path


def write(conf, env, values, name="globals.yml"):
    (conf / env).mkdir(exist_ok=True)
    (conf / env / name).write_text(yaml.safe_dump(values))


def load(conf, env=None, **given):
    strategy = {"parameters": "soft", "globals": "soft"}
    return StudyConfigLoader(
        str(conf), env, runtime_params=given, base_env="base", default_run_env="local", merge_strategy=strategy
    )


def test_an_environment_overrides_the_one_that_it_extends_and_that_one_base(conf):
    loader = load(conf, "mine")
    assert loader.environments == ["paper", "mine"]
    assert loader["globals"]["training"] == {"epochs": 3, "learning_rate": 1e-5, "mixed_precision": "bf16"}
    assert loader["globals"]["beta"] == 0.1 and "extends" not in loader["globals"]
    assert loader["parameters"]["study"] == {"training": loader["globals"]["training"] | {"seed": 7}, "groups": 10}
    assert loader["catalog"]["report"] == {"type": "MemoryDataset"}  # an entry replaces the whole one before


def test_the_local_environment_may_extend_another_one(conf):
    write(conf, "local", {"extends": "mine", "beta": 9.0})
    assert load(conf)["globals"]["beta"] == 9.0
    assert load(conf)["globals"]["training"]["learning_rate"] == 1e-5


def test_environments_that_extend_each_other_in_a_circle_are_refused(conf):
    write(conf, "paper", PAPER | {"extends": "mine"})
    with pytest.raises(ParameterError, match="in a circle: mine extends paper extends mine"):
        load(conf, "mine")
    write(conf, "paper", PAPER | {"extends": "paper"})
    with pytest.raises(ParameterError, match="in a circle: paper extends paper"):
        load(conf, "paper")


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        (
            "papr",
            "conf/mine/globals.yml: extends: there is no environment .papr. .* one of base, mine, paper",
        ),
        (["paper"], "conf/mine/globals.yml: extends takes the name of one environment"),
    ],
)
def test_an_environment_that_extends_none_is_refused(conf, extends, message):
    write(conf, "mine", {"extends": extends})
    with pytest.raises(ParameterError, match=message):
        load(conf, "mine")


def test_what_overrides_a_global_counts_in_the_globals_that_refer_to_it(conf):
    write(conf, "mine", {"precision": "no"})
    assert load(conf, "mine")["globals"]["training"]["mixed_precision"] == "no"
    assert load(conf, precision="fp8")["globals"]["training"]["mixed_precision"] == "fp8"


def test_a_difference_stays_where_the_common_block_is_overridden(conf):
    loader = load(conf, training={"epochs": 5, "learning_rate": 2.0})
    assert loader["parameters"]["supervised_finetuning"] == {
        "epochs": 1,
        "learning_rate": 2.0,
        "mixed_precision": "bf16",
    }
    changed = load(conf, supervised_finetuning={"epochs": 9})["parameters"]
    assert (changed["supervised_finetuning"]["epochs"], changed["study"]["training"]["epochs"]) == (9, 2)
    changed = load(conf, sft_training={"epochs": 8})["parameters"]
    assert (changed["supervised_finetuning"]["epochs"], changed["study"]["training"]["epochs"]) == (8, 2)


def test_a_name_picks_the_block_of_a_model(conf):
    default, other = load(conf, "paper"), load(conf, "paper", model="qwen")
    assert (default["globals"]["model"]["name"], default["globals"]["data_root"]) == ("meta/llama", "data/llama")
    assert other["globals"]["model"] == {"source": "checkpoint", "name": "qwen/qwen", "revision": None}
    assert other["parameters"]["model"] == other["globals"]["model"]
    assert (other["globals"]["data_root"], other["globals"]["beta"]) == ("data/qwen", 0.5)


def test_what_params_give_overrides_the_block_of_the_model(conf):
    assert load(conf, "paper", model="qwen", beta=7.0)["globals"]["beta"] == 7.0
    local = load(conf, "paper", model={"name": "/disk/llama"})
    assert local["parameters"]["model"] == {"source": "checkpoint", "name": "/disk/llama", "revision": None}
    assert local["globals"]["data_root"] == "data/llama"


def test_an_environment_adds_a_model_or_changes_one_of_those_it_extends(conf):
    own = {"gemma": {"model": {"source": "checkpoint", "name": "g"}}, "qwen": {"model": {"name": "/disk/qwen"}}}
    write(conf, "mine", {"extends": "paper", "models": own})
    assert load(conf, "mine", model="gemma")["globals"]["model"]["name"] == "g"
    qwen = load(conf, "mine", model="qwen")["globals"]
    assert (qwen["model"]["name"], qwen["data_root"]) == ("/disk/qwen", "data/qwen")


def test_an_unknown_model_is_refused_with_the_known_ones(conf):
    with pytest.raises(ParameterError, match="no model 'lama' in the environment paper: choose one of llama, qwen"):
        load(conf, "paper", model="lama")
