"""On-policy rounds of PPO and RLOO: two processes on a CPU train what one trains, with the shipped accelerate files."""

import json
import re

import pytest
import torch
from accelerate.state import AcceleratorState
from groups import log_of, parameters
from rounds import ppo_round_spec, rloo_round_spec, sample_round
from two_processes import (
    EACH_ENGINE,
    ENGINES,
    assert_resumed_after_step_1,
    assert_same_training,
    assert_same_weights,
    each_alone,
    launched,
    refusal,
    stop_alone,
)

from rao_kedro.config.training import LoRAParameters
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint

TRAINING = {"epochs": 2, "max_tokens_per_batch": 60, "batch_size": 3, "learning_rate": 1e-3, "keep": "last"}
OWN = {"value_learning_rate": 3e-3, "value_max_grad_norm": 0.5}
VARIANTS = {
    "plain": ({}, {}),
    "own": ({}, OWN),
    "pieces": ({"max_tokens_per_batch": 14}, {}),  # a group has 29
    "lora": ({"lora": LoRAParameters(rank=4, alpha=8), "learning_rate": 1e-2}, OWN),
}
WITH_BF16_WEIGHTS = "bf16_weights"

pytestmark = pytest.mark.slow


class Inputs:
    """Samples of a policy that has left its reference, and the specs of rounds on them."""

    def __init__(self, directory, model, reward_model):
        self.directory, self.reference, self.reward_model = directory, model, reward_model
        policy = load_causal_lm(model)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            for weight in policy.parameters():
                weight += 0.02 * torch.randn_like(weight)
        self.model = directory / "policy"
        save_checkpoint(policy, load_tokenizer(model), self.model)
        self.groups = sample_round(directory / "groups.parquet", self.model)
        training = parameters(**TRAINING)
        self.rloo = rloo_round_spec(directory, self.groups, self.model, training, model, normalise_advantages=True)

    def task(self, name, directory):
        """Return the spec of a task, whose workspace is in `directory`."""
        if name == "rloo":
            return self.rloo.model_copy(update={"workspace": directory / name})
        if name == WITH_BF16_WEIGHTS:
            changes, own = {"mixed_precision": "bf16_weights", "published_dtype": "fp32"}, OWN
        else:
            changes, own = VARIANTS[name]
        training = parameters(**TRAINING | changes)
        models = {"model_dir": self.model, "value_dir": self.reward_model, "reference_dir": self.reference}
        return ppo_round_spec(directory / name, self.groups, training=training, **models, **own)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_checkpoint, tiny_reward_model):
    made = Inputs(tmp_path_factory.mktemp("inputs"), tiny_checkpoint, tiny_reward_model)
    AcceleratorState._reset_state()
    return made


@pytest.fixture(scope="module")
def alone(inputs):
    yield from each_alone(inputs)


@pytest.fixture(scope="module")
def together(inputs):
    """Return the workspaces' directory of an engine after two processes have done everything, and what they said."""
    done = {}

    def run(engine):
        if engine not in done:
            (directory := inputs.directory / engine).mkdir()
            tasks = [(inputs.task(name, directory), False) for name in (*VARIANTS, "rloo")]
            tasks += [(inputs.task("plain", directory / "stopped"), stops) for stops in (True, False)]
            if engine == "ddp":
                tasks.append((inputs.task(WITH_BF16_WEIGHTS, directory), False))
            if engine == "fsdp2":
                tasks.append((inputs.task("plain", directory / "sharded"), False))
            if engine != "zero3":
                stop_alone(inputs.task("own", directory / "from_one"))
                tasks.append((inputs.task("own", directory / "from_one"), False))
            done[engine] = directory, launched(engine, tasks, directory)
        directory, ended = done[engine]
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
        return directory, ended.stdout

    return run


def assert_same_round(found, expected):
    assert_same_training(found, expected)
    assert_same_weights(found / "value_network", expected / "value_network")
    for row, expected_row in zip(log_of(found)[0], log_of(expected)[0], strict=True):
        for metric in ("kl_to_reference", "score", "response_tokens", "beta"):
            assert row[metric] == pytest.approx(expected_row[metric], rel=1e-4, abs=1e-5), metric


@pytest.mark.parametrize("engine", EACH_ENGINE)
@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_train_the_policy_and_the_value_network_of_one(together, alone, engine, name):
    directory, said = together(engine)
    if engine == "zero3" and name in ("own", "lora"):
        assert "DeepSpeed clips the gradients of all networks together" in refusal(directory / name)
        return
    assert re.search(rf"of each of 2 processes{ENGINES[engine][2]}[;\n]", said)
    assert not (directory / name / "refused.txt").exists(), refusal(directory / name)
    assert_same_round(directory / name, alone(name))
    first = log_of(directory / name)[0][0]
    assert first["approximate_kl"] < 1e-8 and first["clip_fraction"] == 0


@pytest.mark.parametrize("engine", EACH_ENGINE)
def test_two_processes_train_rloo_as_one(together, alone, engine):
    directory, _ = together(engine)
    assert not (directory / "rloo" / "refused.txt").exists(), refusal(directory / "rloo")
    assert_same_training(directory / "rloo", alone("rloo"))
    assert log_of(directory / "rloo")[0][0]["approximate_kl"] < 1e-8


@pytest.mark.parametrize("engine", EACH_ENGINE)
def test_a_round_that_two_processes_began_goes_on_to_the_same_weights(together, alone, engine):
    directory, said = together(engine)
    assert_resumed_after_step_1(said, directory / "stopped" / "plain")
    assert_same_round(directory / "stopped" / "plain", alone("plain"))


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_round_that_one_process_began_goes_on_with_two(together, alone, engine):
    directory, said = together(engine)
    assert_resumed_after_step_1(said, directory / "from_one" / "own")
    assert_same_round(directory / "from_one" / "own", alone("own"))


def test_a_reference_that_does_not_fit_beside_the_networks_is_sharded(together, alone):
    directory = together("fsdp2")[0] / "sharded" / "plain"
    assert_same_round(directory, alone("plain"))
    for process in range(2):
        models = json.loads((directory / f"held-{process}.json").read_text())
        assert models and all(0.5 <= after / before < 0.51 for before, after in models)


def test_copies_in_bf16_have_their_own_groups_of_parameters_too(together, alone):
    assert_same_round(together("ddp")[0] / WITH_BF16_WEIGHTS, alone(WITH_BF16_WEIGHTS))
