"""Proximal policy optimisation for RLHF (Schulman et al. 2017, eq. 7; Ziegler et al. 2019): losses of rollout tokens.

Unlike the other objectives it reads tokens, not groups: N sampled responses of up to T tokens each.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rao_kedro.objectives.base import ObjectiveOutput, require_finite, require_positive


@dataclass(frozen=True)
class Rollout:
    """N responses sampled from the policy before the update, token by token.

    Attributes:
        logps: `[N, T]` log-prob of each sampled token under the policy that sampled it, in nats.
        values: `[N, T]` value before each token, in reward units.
        advantages: `[N, T]` whitened.
        returns: `[N, T]` advantages before whitening, plus values.
        mask: `[N, T]` True where a token exists.
    """

    logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PPO:
    """Clipped policy and value losses on rollouts whose reward is the score at the end less `beta` times the KL.

    Attributes:
        beta: Strength of the KL penalty, reward units per nat.
        gamma: Discount per token.
        gae_lambda: Lambda of generalised advantage estimation.
        clip_range: The policy's ratio is clipped to 1 +- this.
        value_clip_range: A value moves by at most this per rollout, in reward units.
        value_coefficient: Weight of the value loss.
    """

    beta: float = 0.05
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    value_coefficient: float = 0.1

    needs_reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_finite("beta", self.beta, at_least=0)
        require_finite("value_coefficient", self.value_coefficient, at_least=0)
        for name in ("gamma", "gae_lambda", "clip_range", "value_clip_range"):
            require_positive(name, getattr(self, name))
        if self.gamma > 1 or self.gae_lambda > 1:
            raise ValueError(f"gamma and gae_lambda are at most 1, got {self.gamma!r} and {self.gae_lambda!r}")

    @property
    def temperature(self) -> float | None:
        """Return beta; None where there is no KL penalty."""
        return self.beta or None

    def rollout(self, logps: Tensor, reference: Tensor, values: Tensor, scores: Tensor, mask: Tensor) -> Rollout:
        """Return a rollout with its advantages and returns; no gradient flows through any of it.

        Args:
            logps: `[N, T]` of the policy that sampled.
            reference: `[N, T]` of the reference.
            values: `[N, T]` before each token.
            scores: `[N]` the reward model's, given at the last token.
            mask: `[N, T]` True where a token exists; tokens come first.
        """
        with torch.no_grad():
            rewards = token_rewards(scores, logps - reference, mask, self.beta)
            advantages = generalised_advantages(rewards, values, mask, self.gamma, self.gae_lambda)
            return Rollout(logps, values, whitened(advantages, mask), advantages + values, mask)

    def __call__(self, rollout: Rollout, logps: Tensor, values: Tensor) -> ObjectiveOutput:
        """Return the loss of the policy and the value network, mean over the rollout's tokens.

        Args:
            rollout: What was sampled.
            logps: `[N, T]` of the same tokens under the policy now.
            values: `[N, T]` of the value network now.
        """
        mask, ratio = rollout.mask, (logps - rollout.logps).exp()
        clipped = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        policy_losses = torch.maximum(-rollout.advantages * ratio, -rollout.advantages * clipped)
        near = rollout.values + (values - rollout.values).clamp(-self.value_clip_range, self.value_clip_range)
        errors = torch.maximum((values - rollout.returns).square(), (near - rollout.returns).square())
        policy_loss, value_loss = masked_mean(policy_losses, mask), 0.5 * masked_mean(errors, mask)
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "clipped_share": masked_mean((ratio != clipped).float(), mask),
            "approximate_kl": masked_mean(0.5 * (logps - rollout.logps).square(), mask),
        }
        weight = mask.sum().to(policy_loss.dtype)
        loss = policy_loss + self.value_coefficient * value_loss
        return ObjectiveOutput(loss, weight, {name: value.detach() for name, value in metrics.items()})


def token_rewards(scores: Tensor, log_ratios: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return `-beta (log pi - log pi_ref)` for every token, with the score added at the last one, `[N, T]`.

    Args:
        scores: `[N]`.
        log_ratios: `[N, T]` in nats.
        mask: `[N, T]` True where a token exists; tokens come first.
        beta: Reward units per nat.
    """
    rewards = (-beta * log_ratios).masked_fill(~mask, 0.0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return `A_t = sum_k (gamma lambda)^k delta_{t+k}`, `delta_t = r_t + gamma V_{t+1} - V_t`, `[N, T]`.

    Schulman et al. 2016, eq. 16. The value after the last token is 0.
    """
    values = values.masked_fill(~mask, 0.0)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = (rewards + gamma * after - values).masked_fill(~mask, 0.0)
    advantage, columns = torch.zeros_like(deltas[:, 0]), []
    for t in reversed(range(deltas.shape[1])):
        advantage = deltas[:, t] + gamma * gae_lambda * advantage
        columns.append(advantage)
    return torch.stack(columns[::-1], dim=1).masked_fill(~mask, 0.0)


def whitened(values: Tensor, mask: Tensor) -> Tensor:
    """Return values with mean 0 and variance 1 over all tokens, 0 where masked."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    return ((values - mean) * (variance + 1e-8).rsqrt()).masked_fill(~mask, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over tokens that exist."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()
