"""Batches that the tests of objectives share."""

import math
from dataclasses import replace

import torch

from rao_kedro.objectives import LogProbBatch


def one_group(**changes) -> LogProbBatch:
    """Two responses with h = (1, -2), D = 0.5, rewards (0.3, -0.1), 5 and 7 tokens."""
    batch = LogProbBatch(
        policy=torch.tensor([[-10.0, -22.0]]),
        reference=torch.tensor([[-11.0, -20.0]]),
        policy_prompt=torch.tensor([-30.0]),
        reference_prompt=torch.tensor([-30.5]),
        rewards=torch.tensor([[0.3, -0.1]]),
        lengths=torch.tensor([[5, 7]]),
        mask=torch.ones(1, 2, dtype=torch.bool),
    )
    return replace(batch, **changes)


def random_batch(seed: int, groups: int = 3, responses: int = 4) -> LogProbBatch:
    """Ragged groups in float64 with everything that any objective reads; policy tensors require gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.ones(groups, responses, dtype=torch.bool)
    mask[0, 2:] = False
    policy = normal(groups, responses) * 3 - 50
    nudges = torch.randn(*policy.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return LogProbBatch(
        policy=policy.requires_grad_(),
        reference=normal(groups, responses) * 3 - 50,
        sampling=policy.detach() + 0.3 * nudges,
        policy_prompt=(normal(groups) - 20).requires_grad_(),
        reference_prompt=normal(groups) - 20,
        rewards=normal(groups, responses),
        lengths=torch.randint(5, 40, (groups, responses), generator=generator),
        mask=mask,
        mismatched_policy=normal(groups) - 60,
        mismatched_reference=normal(groups) - 60.5,
        values=normal(groups).requires_grad_(),
        reference_rewards=torch.where(
            torch.arange(6) < 6 - mask.sum(1, keepdim=True) // 3, normal(groups, 6), math.nan
        ),
    )
