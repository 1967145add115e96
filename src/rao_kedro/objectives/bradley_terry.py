"""The loss of a Bradley-Terry reward model (Bradley and Terry 1952), over every pair of a group."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(
    rewards: Tensor, ratings: Tensor, mask: Tensor, centering: float, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the loss and the accuracy, over all pairs of responses with different ratings.

    The loss of a pair is `-log sigmoid(r_w - r_l - m (s_w - s_l)) + c (r_w + r_l)^2`. The margin m grows with the
    difference of the ratings s (Touvron et al. 2023, eq. 2). The second term fixes the additive constant of the rewards
    (Eisenstein et al. 2023). Both results are means over a group's pairs, then over groups; a group without two
    different ratings counts with loss 0 and accuracy 0.

    Args:
        rewards: `[G, K]` predicted rewards.
        ratings: `[G, K]` given ratings; without a margin only their order matters.
        mask: `[G, K]` True where a response exists.
        centering: Weight c.
        margin: m, reward per unit of rating.

    Returns:
        The loss in nats, and the share of pairs that the rewards order as the ratings do.
    """
    better = (ratings[:, :, None] > ratings[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    differences = rewards[:, :, None] - rewards[:, None, :]
    sums = rewards[:, :, None] + rewards[:, None, :]
    margins = margin * (ratings[:, :, None] - ratings[:, None, :])
    losses = -F.logsigmoid(differences - margins) + centering * sums.square()
    n_pairs = better.sum((1, 2)).clamp(min=1)
    loss = ((losses * better).sum((1, 2)) / n_pairs).mean()
    accuracy = (((differences > 0) & better).sum((1, 2)) / n_pairs).mean()
    return loss, accuracy
