"""PPO on a one-step bandit, whose KL-regularised optimum is `pi_ref exp(r / beta) / Z`."""

import torch

from rao_kedro.objectives import make_objective


def test_ppo_reaches_the_kl_regularised_optimum_of_a_bandit():
    """Six actions, beta 0.5; on-policy rollouts of 512 actions, a value that is learnt with the policy."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(6, generator=generator).log_softmax(0)
    reward = torch.rand(6, generator=generator)
    beta, n = 0.5, 512
    optimum = (reference + reward / beta).softmax(0)
    logits = reference.clone().requires_grad_()
    value = torch.zeros(1, requires_grad=True)
    objective = make_objective("ppo", beta=beta, value_coefficient=1.0)
    optimizer = torch.optim.Adam([logits, value], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    mask = torch.ones(n, 1, dtype=torch.bool)
    start = (logits.softmax(0) - optimum).abs().sum().item() / 2
    for _ in range(300):
        actions = torch.multinomial(logits.detach().softmax(0), n, replacement=True, generator=generator)
        logps = logits.log_softmax(0)[actions][:, None].detach()
        old_values = value.detach().expand(n, 1)
        rollout = objective.rollout(logps, reference[actions][:, None], old_values, reward[actions], mask)
        for _ in range(4):
            optimizer.zero_grad()
            objective(rollout, logits.log_softmax(0)[actions][:, None], value.expand(n, 1)).loss.backward()
            optimizer.step()
        schedule.step()
    distance = (logits.softmax(0) - optimum).abs().sum().item() / 2  # total variation
    assert start > 0.2 and distance < 0.03
