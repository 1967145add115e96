"""RLOO on a language whose KL-regularised optimum `pi_ref exp(r / beta) / Z` is known."""

import torch
from toy_world import TablePolicy, ToyWorld

from rao_kedro.objectives import LogProbBatch, make_objective


def logps(policy, world):
    """Return log pi of every sequence, `[sequences]` in nats."""
    return torch.stack([policy.logp(sequence) for sequence in world.sequences])


def distance(policy, optimum, world):
    """Return the total variation between two policies."""
    with torch.no_grad():
        return float((logps(policy, world).exp() - optimum).abs().sum() / 2)


def test_rounds_of_rloo_reach_the_kl_regularised_optimum():
    """Nine sequences of two tokens. A round samples 64 groups of four, and learns from them in two epochs.

    At the optimum every response has the same penalised reward: all advantages are 0, so that no noise is left.
    """
    world, generator = ToyWorld(vocabulary=3, length=2, beta=0.2), torch.Generator().manual_seed(0)
    optimum = torch.stack([world.optimal_logp(sequence) for sequence in world.sequences]).exp()
    reference = logps(world.reference, world)
    rewards = torch.stack([world.reward[sequence] for sequence in world.sequences])
    policy, objective = TablePolicy(3, 2, world.seed), make_objective("rloo", beta=world.beta)
    start = distance(policy, optimum, world)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        sampling = logps(policy, world).detach()
        drawn = torch.multinomial(sampling.exp(), 64 * 4, replacement=True, generator=generator).view(64, 4)
        for minibatch in [*drawn.split(32), *drawn.split(32)]:
            batch = LogProbBatch(
                policy=logps(policy, world)[minibatch],
                sampling=sampling[minibatch],
                reference=reference[minibatch],
                rewards=rewards[minibatch],
            )
            optimizer.zero_grad()
            objective(batch).loss.backward()
            optimizer.step()
        schedule.step()
    assert start > 0.2 and distance(policy, optimum, world) < 1e-4
