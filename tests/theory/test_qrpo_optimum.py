"""What QRPO converges to, on languages whose rewards' quantiles under the reference are known exactly."""

import math
from dataclasses import replace

import pytest
import torch
from toy_world import TablePolicy, ToyWorld, minimise

from rao_kedro.objectives import LogProbBatch, make_objective

WORLDS = [(2, 4, 0.3), (3, 3, 0.5), (4, 2, 1.0)]


@pytest.fixture(params=WORLDS, ids=lambda p: f"vocabulary{p[0]}-length{p[1]}")
def world(request):
    return ToyWorld(*request.param)


def sampled(world, n, seed=0):
    """Rewards of n responses of the reference to each prompt of one token, `[prompts, n]`."""
    generator = torch.Generator().manual_seed(seed)
    rewards = []
    for x in world.continuations(1):
        responses = world.continuations(world.length - 1)
        probabilities = torch.stack([world.reference.logp(x + y, 1) for y in responses]).exp()
        picked = torch.multinomial(probabilities, n, replacement=True, generator=generator)
        rewards.append(torch.stack([world.reward[x + y] for y in responses])[picked])
    return torch.stack(rewards)


def exact_quantiles(batch):
    """Pr_{y' ~ pi_ref}(r' <= r), `[prompts, responses]`: every response is in the batch."""
    at_most = batch.rewards[:, None, :] <= batch.rewards[:, :, None]
    return (at_most * batch.reference.exp()[:, None, :]).sum(2)


def test_quantiles_of_samples_are_those_of_the_reference(world):
    batch = world.groups(world.reference, prompt_length=1)
    found = make_objective("qrpo").regressed_rewards(replace(batch, reference_rewards=sampled(world, 40_000)))
    assert float((found - exact_quantiles(batch)).abs().max()) < 4 * 0.5 / math.sqrt(40_000)


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_with_exact_quantiles_of_many_responses_it_converges_to_the_optimum(beta):
    """A bandit of 400 equally likely responses: pi* = pi_ref exp(q / beta) / Z, up to the error 1 / (400 beta) of Z."""
    rewards = torch.randn(1, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference = torch.zeros_like(rewards).log_softmax(1)
    logits, objective = torch.zeros_like(rewards, requires_grad=True), make_objective("qrpo", beta=beta)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        policy = logits.log_softmax(1)
        value = objective(
            LogProbBatch(policy=policy, reference=reference, rewards=rewards, reference_rewards=rewards)
        ).loss
        value.backward()
        return value

    optimizer.step(loss)
    quantiles = (rewards[:, None, :] <= rewards[:, :, None]).double().mean(2)
    optimum = (reference + quantiles / beta).log_softmax(1)
    assert float((logits.detach().log_softmax(1) - optimum).abs().max()) < 1 / (400 * beta)


def test_qrpo_itself_ranks_as_the_optimum_and_is_off_by_the_error_of_its_normaliser(world):
    """For the quantiles of a discrete reward Z is larger than `beta (e^{1/beta} - 1)`: their mean is above one half."""
    batch, objective = world.groups(world.reference, 1), make_objective("qrpo", beta=world.beta)
    exact_z = (batch.reference + exact_quantiles(batch) / world.beta).logsumexp(1)
    assert bool((exact_z > objective.log_z).all())
    policy, rewards = TablePolicy(world.vocabulary, world.length, world.seed), sampled(world, 4096)
    minimise(policy, lambda: objective(replace(world.groups(policy, 1), reference_rewards=rewards)).loss)
    with torch.no_grad():
        h = world.groups(policy, 1).log_ratio()
        for of_prompt, of_rewards in zip(h, batch.rewards, strict=True):
            assert of_prompt.argsort().tolist() == of_rewards.argsort().tolist()


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("n", [10, 100, 10_000])
def test_the_normaliser_is_exact_for_many_different_rewards(n, beta):
    """n equally likely responses without ties have quantiles 1/n ... 1: Z tends to the integral of e^{q/beta}."""
    quantiles = torch.arange(1, n + 1, dtype=torch.float64) / n
    log_z = float((quantiles / beta).logsumexp(0)) - math.log(n)
    assert 0 < log_z - make_objective("qrpo", beta=beta).log_z < 1 / (n * beta)
