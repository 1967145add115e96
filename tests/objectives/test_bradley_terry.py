"""The loss of a Bradley-Terry reward model against arithmetic by hand."""

import pytest
import torch

from rao_kedro.objectives.bradley_terry import bradley_terry_loss


def test_bradley_terry_equals_hand_arithmetic():
    """Rewards (1, 0, -1), ratings (2, 1, 1): two pairs with margins 1 and 2, sums 1 and 0.

    loss = (log(1+e^-1) + 0.1*1 + log(1+e^-2) + 0) / 2 = (0.313262 + 0.1 + 0.126928) / 2 = 0.270095
    """
    loss, accuracy = bradley_terry_loss(
        torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0, 1.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool), 0.1
    )
    assert loss.item() == pytest.approx(0.270095, abs=1e-6)
    assert accuracy.item() == 1.0


def test_a_margin_asks_for_a_lead_in_proportion_to_the_ratings():
    """Margins 1 and 2 of rewards, leads of 0.5 per unit of rating wanted: 0.5 and 1.5.

    loss = (log(1 + e^-(1 - 0.5)) + log(1 + e^-(2 - 1.5))) / 2 = 0.474077
    """
    rewards, ratings = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[4.0, 3.0, 1.0]])
    mask = torch.tensor([[True, True, True]])
    loss, _ = bradley_terry_loss(rewards[:, :2], ratings[:, :2], mask[:, :2], centering=0.0, margin=0.5)
    assert loss.item() == pytest.approx(0.474077, abs=1e-6)
    loss, _ = bradley_terry_loss(rewards[:, ::2], ratings[:, ::2], mask[:, ::2], centering=0.0, margin=0.5)
    assert loss.item() == pytest.approx(0.474077, abs=1e-6)


def test_a_group_of_equal_ratings_and_a_masked_response_make_no_pairs():
    """One pair is left, in the first group, with a difference of 1. The second group counts with loss 0.

    loss = (log(1 + e^-1) + 0) / 2 = 0.156631, accuracy = (1 + 0) / 2
    """
    rewards, ratings = (
        torch.tensor([[1.0, 0.0, 9.0], [3.0, 1.0, 2.0]]),
        torch.tensor([[2.0, 1.0, 0.0], [5.0, 5.0, 5.0]]),
    )
    mask = torch.tensor([[True, True, False], [True, True, True]])
    loss, accuracy = bradley_terry_loss(rewards, ratings, mask, centering=0.0)
    assert loss.item() == pytest.approx(0.156631, abs=1e-6)
    assert accuracy.item() == 0.5
