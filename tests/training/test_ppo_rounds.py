"""Rounds of PPO through the real loop, on what a tiny policy samples."""

import json
from dataclasses import fields

import pytest
import torch
from groups import log_of, parameters, reference
from launching import IN_PROCESS
from rounds import ppo_round_spec, sample_round
from safetensors.torch import load_file

from rao_kedro.config.training import LoRAParameters
from rao_kedro.data.token_tables import read_groups, read_reference
from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, save_checkpoint
from rao_kedro.models.reward_head import find_read_at
from rao_kedro.objectives import make_objective
from rao_kedro.objectives.ppo import Rollout
from rao_kedro.training.tasks import ppo_rounds
from rao_kedro.training.tasks.ppo_rounds import PPORound
from rao_kedro.workers import launch

TRAINING = {"epochs": 3, "learning_rate": 1e-3, "batch_size": 3, "keep": "last", "max_tokens_per_batch": 60}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory, tiny_checkpoint):
    """A table of responses that the tiny checkpoint sampled."""
    return sample_round(tmp_path_factory.mktemp("sampled") / "groups.parquet", tiny_checkpoint)


def weights_of(directory):
    return load_file(directory / "model.safetensors")


def assert_equal_weights(found, expected):
    one, two = weights_of(found), weights_of(expected)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def prepared(spec):
    """Return the task of a spec after its preparation, and its module."""
    task = PPORound(spec)
    module = task.load()
    task.prepare(module)
    return task, module


def test_rounds_raise_the_reward_and_the_value_network_goes_on(tmp_path, tiny_checkpoint, tiny_reward_model):
    training = parameters(**TRAINING | {"epochs": 10, "learning_rate": 1e-2, "max_tokens_per_batch": 2000})
    policy, value, scores = tiny_checkpoint, tiny_reward_model, []
    for number in range(4):
        groups = sample_round(tmp_path / f"{number}.parquet", policy, samples=32, seed=number)
        how = {"objective_parameters": {"beta": 0.01}, "reference_dir": tiny_checkpoint if number else None}
        spec = ppo_round_spec(tmp_path / str(number), groups, policy, value, training, **how)
        if number:  # the value network of the round before, and no new one
            _, module = prepared(spec)
            trained = weights_of(value)
            assert all(torch.equal(tensor, trained[name]) for name, tensor in module.value.model.state_dict().items())
        launch(spec, IN_PROCESS)
        steps, evaluations = log_of(spec.workspace)
        first, last = steps[0], steps[-1]
        assert first["clip_fraction"] == 0 and first["approximate_kl"] < 1e-8 < last["approximate_kl"]
        assert (first["kl_to_reference"] == 0.0) == (number == 0)  # the first policy is the reference itself
        assert {step["kl_to_reference"] for step in steps} == {first["kl_to_reference"]} and first["beta"] == 0.01
        assert {"eval_margin", "eval_log_ratio_chosen", "eval_value_loss"} <= set(evaluations[-1])
        assert "eval_kl_to_reference" not in evaluations[-1]  # held-out responses are not the policy's
        scores.append(first["score"])
        policy, value = spec.trained_dir, spec.value_network_dir
        assert steps[-1]["value_loss"] < steps[0]["value_loss"]
    assert scores[-1] > scores[0] + 0.08
    load_causal_lm(policy)
    load_reward_model(value)
    assert find_read_at(value) == "end_of_turn"


def test_rollouts_of_a_round_are_those_of_plain_rows(sampled, tmp_path, tiny_checkpoint, tiny_reward_model):
    """The oracle: one response at a time, logits of the whole row, then the objective on all responses at once."""
    value_dir, temperature = tiny_reward_model, 0.7
    other = tmp_path / "other"
    model = load_causal_lm(tiny_checkpoint)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    save_checkpoint(model, load_tokenizer(tiny_checkpoint), other)
    options = {"beta": 0.3, "normalise_rewards": True, "missing_eos_penalty": 0.5}
    spec = ppo_round_spec(
        tmp_path / "round",
        sampled,
        tiny_checkpoint,
        value_dir,
        parameters(**TRAINING),
        reference_dir=other,
        temperature=temperature,
        objective_parameters=options,
    )
    task, _ = prepared(spec)
    groups = read_groups(sampled, "train", ["rewards"])
    policy, reference_model, value = (
        load_causal_lm(tiny_checkpoint),
        load_causal_lm(other),
        load_reward_model(value_dir),
    )
    rows = [[], [], []]
    for group in groups:
        for ids in group.response_ids:
            row = torch.tensor([[*group.prompt_ids, *ids]])
            before = slice(len(group.prompt_ids) - 1, -1)
            targets = row[0, len(group.prompt_ids) :]
            with torch.no_grad():
                for column, network in enumerate((policy, reference_model)):
                    logps = (network(input_ids=row).logits[0, before] / temperature).log_softmax(-1)
                    rows[column].append(logps.gather(1, targets[:, None])[:, 0])
                hidden = value.base_model(input_ids=row).last_hidden_state[0, before]
                rows[2].append(value.score(hidden)[:, 0])
    padded = [torch.nn.utils.rnn.pad_sequence(column, batch_first=True) for column in rows]
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(x), dtype=torch.bool) for x in rows[0]], batch_first=True)
    scores = torch.tensor([reward for group in groups for reward in group.rewards])
    finished = torch.tensor([int(ids[-1]) == 2 for group in groups for ids in group.response_ids])
    expected = make_objective("ppo", **options).rollout(*padded, scores, mask, finished)
    assert 0 < int(finished.sum()) < len(finished)
    for f in fields(Rollout):
        found = torch.cat([getattr(task.rollouts[group.group_id], f.name) for group in groups])
        torch.testing.assert_close(found, getattr(expected, f.name), rtol=1e-3, atol=1e-3, msg=f.name)
    kl = ((padded[0] - padded[1]) * mask).sum(1).mean()
    assert task.of_round["kl_to_reference"] == pytest.approx(float(kl), abs=1e-4)


def test_the_first_step_is_the_gradient_of_the_objective_on_all_responses(
    sampled, tmp_path, tiny_checkpoint, tiny_reward_model
):
    """All prompts are in one minibatch, which is several packs."""
    spec = ppo_round_spec(
        tmp_path / "round", sampled, tiny_checkpoint, tiny_reward_model, parameters(**TRAINING | {"batch_size": 8})
    )
    task, module = prepared(spec)
    launch(spec, IN_PROCESS)
    module.train()
    outputs = task.compute(module, list(task.train_groups), torch.device("cpu"))
    loss = task.loss(outputs, list(task.train_groups)).loss
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm()
    first = log_of(spec.workspace)[0][0]
    assert first["loss"] == pytest.approx(float(loss), abs=1e-5)
    assert first["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


@pytest.mark.parametrize("precision", ["no", "bf16_weights"])
def test_a_resumed_round_ends_with_the_same_weights(
    precision, sampled, tmp_path, tiny_checkpoint, tiny_reward_model, killed_at_step_4
):
    training = parameters(**TRAINING, checkpoint_every=1, mixed_precision=precision)
    own = {"value_learning_rate": 5e-3, "value_max_grad_norm": 0.5}
    killed, whole = (
        ppo_round_spec(tmp_path / name, sampled, tiny_checkpoint, tiny_reward_model, training, **own)
        for name in ("killed", "whole")
    )
    with pytest.raises(KeyboardInterrupt):
        launch(killed, IN_PROCESS)
    launch(killed, IN_PROCESS)
    assert killed_at_step_4 == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9]  # nine steps; the fourth was lost and taken again
    launch(whole, IN_PROCESS)
    assert_equal_weights(killed.trained_dir, whole.trained_dir)
    assert_equal_weights(killed.value_network_dir, whole.value_network_dir)


def test_the_value_network_has_a_learning_rate_and_a_clipping_of_its_own(
    sampled, tmp_path, tiny_checkpoint, tiny_reward_model
):
    def run(name, **own):
        spec = ppo_round_spec(
            tmp_path / name, sampled, tiny_checkpoint, tiny_reward_model, parameters(**TRAINING | {"epochs": 1}), **own
        )
        launch(spec, IN_PROCESS)
        return spec, log_of(spec.workspace)[0]

    plain, steps = run("plain")
    same, same_steps = run("same", value_learning_rate=1e-3)
    assert_equal_weights(same.trained_dir, plain.trained_dir)
    assert_equal_weights(same.value_network_dir, plain.value_network_dir)
    assert "value_grad_norm" not in same_steps[0]
    clipped, clipped_steps = run("clipped", value_learning_rate=1e-9, value_max_grad_norm=1e-3)
    norms = clipped_steps[0]
    assert norms["grad_norm"] ** 2 + norms["value_grad_norm"] ** 2 == pytest.approx(
        steps[0]["grad_norm"] ** 2, rel=1e-4
    )
    start = weights_of(tiny_reward_model)
    moved = {
        spec.workspace.name: max(
            float((weights - start[name]).abs().max()) for name, weights in weights_of(spec.value_network_dir).items()
        )
        for spec in (plain, clipped)
    }
    assert moved["plain"] > 1e-4 and moved["clipped"] < 1e-6
    policy = weights_of(clipped.trained_dir)
    assert any(
        not torch.equal(policy[name], value) for name, value in weights_of(tiny_checkpoint).items() if name in policy
    )


def test_adapters_are_merged_into_both_networks(sampled, tmp_path, tiny_checkpoint, tiny_reward_model):
    training = parameters(**TRAINING | {"lora": LoRAParameters(rank=4, alpha=8), "learning_rate": 1e-2})
    spec = ppo_round_spec(
        tmp_path / "lora", sampled, tiny_checkpoint, tiny_reward_model, training, value_learning_rate=5e-3
    )
    launch(spec, IN_PROCESS)
    for trained, start in ((spec.trained_dir, tiny_checkpoint), (spec.value_network_dir, tiny_reward_model)):
        found = weights_of(trained)
        assert not any("lora" in name for name in found)
        assert any(not torch.equal(found[name], value) for name, value in weights_of(start).items() if name in found)


def test_a_missing_end_of_turn_lowers_the_score_of_that_response_alone(
    sampled, tmp_path, tiny_checkpoint, tiny_reward_model
):
    """beta 0, so that the return of every token is the score: rewards that the penalty lowers by 0.5."""
    returns = {}
    for penalty in (0.0, 0.5):
        objective = {"beta": 0.0, "missing_eos_penalty": penalty, "gae_lambda": 1.0}
        spec = ppo_round_spec(
            tmp_path / str(penalty),
            sampled,
            tiny_checkpoint,
            tiny_reward_model,
            parameters(**TRAINING),
            objective_parameters=objective,
        )
        task, _ = prepared(spec)
        returns[penalty] = {group.group_id: task.rollouts[group.group_id].returns[:, 0] for group in task.train_groups}
    for group in task.train_groups:
        expected = torch.tensor([0.0 if ids[-1] == 2 else 0.5 for ids in group.response_ids])
        torch.testing.assert_close(
            returns[0.0][group.group_id] - returns[0.5][group.group_id], expected, atol=1e-5, rtol=0
        )


def test_adaptive_control_takes_beta_and_kl_from_the_log_of_the_round(
    sampled, tmp_path, tiny_checkpoint, tiny_reward_model
):
    control = {"kl_control": "adaptive", "kl_target": 6.0, "kl_horizon": 100.0, "beta": 0.05}
    spec = ppo_round_spec(
        tmp_path / "round",
        sampled,
        tiny_checkpoint,
        tiny_reward_model,
        parameters(**TRAINING),
        objective_parameters=control,
    )
    launch(spec, IN_PROCESS)
    last = json.loads((spec.workspace / "training_log.jsonl").read_text().splitlines()[-2])
    found = make_objective("ppo", **control | {"beta": last["beta"]}).next_beta(last["kl_to_reference"], 32)
    assert found == pytest.approx(0.05 * (1 - 0.2 * 32 / 100))  # KL is 0, far below the target
    short = ppo_round_spec(
        tmp_path / "short",
        sampled,
        tiny_checkpoint,
        tiny_reward_model,
        parameters(**TRAINING),
        objective_parameters=control | {"kl_horizon": 5.0},
    )
    with pytest.raises(ParameterError, match="kl_horizon 5 is too short for rounds of 32 responses"):
        launch(short, IN_PROCESS)


def test_a_table_of_another_reference_is_refused(sampled, tmp_path, tiny_checkpoint, tiny_reward_model, monkeypatch):
    known = reference(tmp_path, tiny_checkpoint, sampled)
    spec = ppo_round_spec(
        tmp_path / "round", sampled, tiny_checkpoint, tiny_reward_model, parameters(**TRAINING), reference_path=known
    )
    prepared(spec)
    table = read_reference(known, sampled)

    class Shifted:
        def __getitem__(self, name):
            prompt, responses = table[name]
            return prompt, [logp - 1 for logp in responses]

    monkeypatch.setattr(ppo_rounds, "read_reference", lambda *paths: Shifted())
    with pytest.raises(TrainingError, match=r"differ from those of .* computed here by 1\.000 nats"):
        prepared(spec)


def test_groups_longer_than_a_pack_learn_the_same(sampled, tmp_path, tiny_checkpoint, tiny_reward_model):
    losses = []
    for room in (14, 400):
        spec = ppo_round_spec(
            tmp_path / str(room),
            sampled,
            tiny_checkpoint,
            tiny_reward_model,
            parameters(**TRAINING | {"max_tokens_per_batch": room}),
        )
        launch(spec, IN_PROCESS)
        losses.append([step["loss"] for step in log_of(spec.workspace)[0]])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
