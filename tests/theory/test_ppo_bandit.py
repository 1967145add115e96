"""PPO on bandits and tiny languages, whose KL-regularised optimum is `pi_ref exp(r / beta) / Z`."""

import pytest
import torch
from toy_world import TablePolicy, ToyWorld

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


class Learner:
    """A policy on sequences of two tokens with a value before each, trained round by round on what it samples."""

    def __init__(self, beta):
        self.world = ToyWorld(vocabulary=3, length=2, beta=beta)
        self.policy = TablePolicy(3, 2, self.world.seed)
        self.values = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(3**depth)) for depth in range(2)])
        self.sequences = torch.tensor(self.world.sequences)
        self.rewards = torch.stack([self.world.reward[tuple(of)] for of in self.world.sequences])
        self.generator = torch.Generator().manual_seed(0)
        parameters = [
            {"params": self.policy.parameters(), "lr": 0.03},
            {"params": self.values.parameters(), "lr": 0.1},
        ]
        self.optimizer = torch.optim.Adam(parameters)

    def logps(self, policy, sampled):
        """Return `[N, 2]` log-probs of the tokens of sequences."""
        first, second = self.sequences[sampled].T
        tables = [table.log_softmax(1) for table in policy.tables]
        return torch.stack([tables[0][0, first], tables[1][first, second]], 1)

    def state_values(self, sampled):
        first = self.sequences[sampled][:, 0]
        return torch.stack([self.values[0].expand(len(sampled)), self.values[1][first]], 1)

    def distribution(self, policy):
        with torch.no_grad():
            return self.logps(policy, torch.arange(9)).sum(1).exp()

    def round(self, objective, n=512):
        """Sample, learn in four epochs of two minibatches; return the KL of the sampling policy as it was measured."""
        sampled = torch.multinomial(self.distribution(self.policy), n, replacement=True, generator=self.generator)
        with torch.no_grad():
            logps, values = self.logps(self.policy, sampled), self.state_values(sampled)
            reference = self.logps(self.world.reference, sampled)
        mask = torch.ones(n, 2, dtype=torch.bool)
        whole = objective.rollout(logps, reference, values, self.rewards[sampled], mask)
        for part in torch.randperm(n, generator=self.generator).split(n // 2) * 4:
            rollout = type(whole)(**{name: value[part] for name, value in vars(whole).items()})
            self.optimizer.zero_grad()
            objective(rollout, self.logps(self.policy, sampled[part]), self.state_values(sampled[part])).loss.backward()
            self.optimizer.step()
        return float((logps - reference).sum(1).mean())


def test_rounds_of_ppo_reach_the_optimum_and_the_value_network_the_value_of_the_start():
    learner, beta = Learner(beta=0.3), 0.3
    optimum = torch.stack([learner.world.optimal_logp(sequence) for sequence in learner.world.sequences]).exp()
    start = float((learner.distribution(learner.policy) - optimum).abs().sum() / 2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(learner.optimizer, 200)
    objective = make_objective("ppo", beta=beta, value_coefficient=1.0)
    for _ in range(200):
        learner.round(objective)
        schedule.step()
    distance = float((learner.distribution(learner.policy) - optimum).abs().sum() / 2)
    assert start > 0.2 and distance < 0.03
    # At the optimum r - beta h is beta log Z for every sequence, and so is the value of the start.
    assert float(learner.values[0]) == pytest.approx(beta * float(learner.world.log_z()), abs=0.02)


def test_adaptive_control_brings_the_kl_of_rounds_to_its_target():
    """From a beta whose optimum is far away, beta rises until the KL is at the target, nats per sequence."""
    learner, beta, kl = Learner(beta=0.3), 0.02, []
    for _ in range(300):
        objective = make_objective(
            "ppo", beta=beta, value_coefficient=1.0, kl_control="adaptive", kl_target=0.3, kl_horizon=2000.0
        )
        kl.append(learner.round(objective))
        beta = objective.next_beta(kl[-1], 512)
    assert max(kl) > 0.6
    assert sum(kl[-50:]) / 50 == pytest.approx(0.3, abs=0.06)
