"""PPO's parts against hand-worked numbers."""

import pytest
import torch

from rao_kedro.objectives import make_objective
from rao_kedro.objectives.ppo import Rollout, adapt_beta, estimate_advantages, token_rewards, whiten


def test_rewards_are_the_kl_penalty_per_token_and_the_score_at_the_last_one():
    """beta 0.1, log-ratios (1, 2): (-0.1, -0.2 + 3); one token of log-ratio -1: 0.1 + 5, and nothing behind it."""
    rewards = token_rewards(
        torch.tensor([3.0, 5.0]),
        torch.tensor([[1.0, 2.0], [-1.0, 9.0]]),
        torch.tensor([[True, True], [True, False]]),
        beta=0.1,
    )
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 2.8], [5.1, 0.0]]))


def test_generalised_advantages_equal_a_hand_worked_example():
    """gamma 0.9, lambda 0.5; rewards (1, 0, 2), values (0.5, 1, -1).

    deltas: 1 + 0.9 * 1 - 0.5 = 1.4;  0 + 0.9 * -1 - 1 = -1.9;  2 + 0 + 1 = 3
    A_2 = 3;  A_1 = -1.9 + 0.45 * 3 = -0.55;  A_0 = 1.4 + 0.45 * -0.55 = 1.1525
    The second row ends after one token: A_0 = 1 - 0.5 = 0.5, whatever stands behind it.
    """
    advantages = estimate_advantages(
        torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0]]),
        torch.tensor([[0.5, 1.0, -1.0], [0.5, 77.0, 77.0]]),
        torch.tensor([[True, True, True], [True, False, False]]),
        gamma=0.9,
        gae_lambda=0.5,
    )
    torch.testing.assert_close(advantages, torch.tensor([[1.1525, -0.55, 3.0], [0.5, 0.0, 0.0]]))


def test_whitening_leaves_out_masked_tokens():
    values = whiten(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[True, True, False]]))
    torch.testing.assert_close(values, torch.tensor([[-1.0, 1.0, 0.0]]), rtol=1e-4, atol=1e-4)


def test_the_clipped_losses_equal_hand_arithmetic():
    """Ratios (1.5, 0.5), advantages (1, 1), clip 0.2: max(-1.5, -1.2) = -1.2 and max(-0.5, -0.8) = -0.5, mean -0.85.

    Values moved from 0 to (1, 0.1), returns (1, 1), clip 0.2: max(0, 0.64) and max(0.81, 0.81); half the mean 0.3625.
    L = -0.85 + 0.1 * 0.3625 = -0.81375; both ratios are clipped.
    """
    ones, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    rollout = Rollout(logps=torch.zeros(1, 2), values=torch.zeros(1, 2), advantages=ones, returns=ones, mask=mask)
    out = make_objective("ppo")(rollout, torch.tensor([[1.5, 0.5]]).log(), torch.tensor([[1.0, 0.1]]))
    assert out.loss.item() == pytest.approx(-0.81375, abs=1e-6)
    assert out.metrics["clip_fraction"].item() == 1.0


def test_a_ratio_clipped_on_the_good_side_gets_no_gradient():
    zeros = torch.zeros(1, 2)
    rollout = Rollout(zeros, zeros, torch.tensor([[1.0, -1.0]]), zeros, torch.ones(1, 2, dtype=torch.bool))
    logps = torch.tensor([[0.5, 0.5]], requires_grad=True)
    make_objective("ppo")(rollout, logps, torch.zeros(1, 2)).loss.backward()
    assert logps.grad[0, 0] == 0 and logps.grad[0, 1] > 0


def test_no_gradient_reaches_the_scores_or_the_reference():
    tensors = [torch.randn(2, 3, requires_grad=True) for _ in range(3)]
    scores = torch.randn(2, requires_grad=True)
    rollout = make_objective("ppo").rollout(*tensors, scores, torch.ones(2, 3, dtype=torch.bool))
    assert not rollout.advantages.requires_grad and not rollout.returns.requires_grad


def returns_of(scores, finished=None, **options):
    """Return the returns of responses of one token: with values of 0, no KL and beta 0 they are the scores."""
    zeros = torch.zeros(len(scores), 1)
    mask = torch.ones(len(scores), 1, dtype=torch.bool)
    objective = make_objective("ppo", beta=0.0, **options)
    return objective.rollout(zeros, zeros, zeros, torch.tensor(scores), mask, finished).returns[:, 0]


def test_the_penalty_of_a_missing_end_of_turn_is_subtracted_after_normalising():
    """Scores (1, 3), whose mean is 2 and standard deviation 1: (-1, 1); the second response is not finished."""
    finished = torch.tensor([True, False])
    torch.testing.assert_close(returns_of([1.0, 3.0], finished, missing_eos_penalty=0.5), torch.tensor([1.0, 2.5]))
    both = returns_of([1.0, 3.0], finished, missing_eos_penalty=0.5, normalise_rewards=True)
    torch.testing.assert_close(both, torch.tensor([-1.0, 0.5]))
    torch.testing.assert_close(returns_of([2.0, 2.0], normalise_rewards=True), torch.zeros(2))
    with pytest.raises(ValueError, match="which responses are finished"):
        returns_of([1.0, 3.0], missing_eos_penalty=0.5)


def test_adaptive_control_moves_beta_as_ziegler_et_al_do():
    """KL 9 of 6: error 0.5 is cut to 0.2; 1000 of 10000 responses: 0.1 * 1.02. KL 6.6: error 0.1: 0.1 * 1.01."""
    assert adapt_beta(0.1, 9.0, 1000, 6.0, 10_000) == pytest.approx(0.102)
    assert adapt_beta(0.1, 6.6, 1000, 6.0, 10_000) == pytest.approx(0.101)
    assert adapt_beta(0.1, 6.0, 1000, 6.0, 10_000) == 0.1
    assert adapt_beta(0.1, -3.0, 1000, 6.0, 10_000) == pytest.approx(0.098)
    adaptive = make_objective("ppo", beta=0.1, kl_control="adaptive")
    assert adaptive.next_beta(9.0, 1000) == pytest.approx(0.102)
    assert make_objective("ppo", beta=0.1).next_beta(9.0, 10**9) == 0.1
    with pytest.raises(ValueError, match="kl_horizon 10000 is too short for rounds of 50000 responses"):
        adaptive.next_beta(9.0, 50_000)


def test_parameters_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at most 1"):
        make_objective("ppo", gamma=1.1)
    with pytest.raises(ValueError, match="clip_range must be a positive number"):
        make_objective("ppo", clip_range=0)
    with pytest.raises(ValueError, match="kl_control must be one of"):
        make_objective("ppo", kl_control="linear")
