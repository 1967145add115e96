"""Proximal policy optimisation for RLHF (Schulman et al. 2017, eq. 7; Ziegler et al. 2019).

Unlike the other objectives it reads tokens: those of N sampled responses of up to T tokens each.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rao_kedro.objectives.base import ObjectiveOutput, require_choice, require_finite, require_positive

KLControl = Literal["fixed", "adaptive"]


@dataclass(frozen=True)
class Rollout:
    """N responses sampled from the policy before the update, token by token.

    Attributes:
        logps: `[N, T]` log-prob of each sampled token under the policy that sampled it, in nats.
        values: `[N, T]` value of the state before each token, in reward units.
        advantages: `[N, T]` whitened over all tokens.
        returns: `[N, T]` sum of the values and the advantages before whitening.
        mask: `[N, T]` True where a token exists.
    """

    logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


@dataclass(frozen=True)
class PPO:
    """Clipped policy and value losses. A token's reward is `-beta` times its log-ratio; the last one adds the score.

    Attributes:
        beta: Strength of the KL penalty, reward units per nat.
        gamma: Discount per token.
        gae_lambda: Lambda of generalised advantage estimation.
        clip_range: The probability ratio is clipped to 1 +- this.
        value_clip_range: The loss clips the change of a value per rollout to this, in reward units.
        value_coefficient: Weight of the value loss.
        normalise_rewards: Whether the scores of a rollout are brought to mean 0 and standard deviation 1.
        missing_eos_penalty: Subtracted from the score of a response without an end-of-turn token, after normalising.
        kl_control: `fixed` keeps beta; `adaptive` changes it from round to round, towards `kl_target`.
        kl_target: KL divergence from the reference that adaptive control aims at, in nats per response.
        kl_horizon: Responses over which adaptive control changes beta by at most 20 %.
    """

    beta: float = 0.05
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    value_coefficient: float = 0.1
    normalise_rewards: bool = False
    missing_eos_penalty: float = 0.0
    kl_control: KLControl = "fixed"
    kl_target: float = 6.0
    kl_horizon: float = 10_000.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        require_finite("beta", self.beta, at_least=0)
        require_finite("value_coefficient", self.value_coefficient, at_least=0)
        require_finite("missing_eos_penalty", self.missing_eos_penalty, at_least=0)
        require_choice("kl_control", self.kl_control, get_args(KLControl))
        for name in ("gamma", "gae_lambda", "clip_range", "value_clip_range", "kl_target", "kl_horizon"):
            require_positive(name, getattr(self, name))
        if self.gamma > 1 or self.gae_lambda > 1:
            raise ValueError(f"gamma and gae_lambda are at most 1, got {self.gamma!r} and {self.gae_lambda!r}")

    @property
    def temperature(self) -> float | None:
        """Return beta; None without a KL penalty."""
        return self.beta or None

    def next_beta(self, kl: float, responses: int) -> float:
        """Return beta for the next round.

        Args:
            kl: KL divergence of this round's policy from the reference, in nats per response.
            responses: Number of responses of this round.

        Raises:
            ValueError: As from `adapt_beta`.
        """
        if self.kl_control == "fixed":
            return self.beta
        return adapt_beta(self.beta, kl, responses, self.kl_target, self.kl_horizon)

    def rollout(
        self,
        logps: Tensor,
        reference: Tensor,
        values: Tensor,
        scores: Tensor,
        mask: Tensor,
        finished: Tensor | None = None,
    ) -> Rollout:
        """Return a rollout with its advantages and returns, without gradients.

        Args:
            logps: `[N, T]` log-probs under the policy that sampled, in nats.
            reference: `[N, T]` log-probs under the reference, in nats.
            values: `[N, T]` value of the state before each token.
            scores: `[N]` rewards of the responses.
            mask: `[N, T]` True where a token exists; padding is on the right.
            finished: `[N]` True where a response ends with an end-of-turn token; read with `missing_eos_penalty`.

        Raises:
            ValueError: There is a `missing_eos_penalty`, and `finished` is missing.
        """
        with torch.no_grad():
            if self.normalise_rewards:
                scores = whiten(scores, torch.ones_like(scores, dtype=torch.bool))
            if self.missing_eos_penalty:
                if finished is None:
                    raise ValueError("missing_eos_penalty needs to know which responses are finished")
                scores = scores - self.missing_eos_penalty * ~finished
            rewards = token_rewards(scores, logps - reference, mask, self.beta)
            advantages = estimate_advantages(rewards, values, mask, self.gamma, self.gae_lambda)
            return Rollout(logps, values, whiten(advantages, mask), advantages + values, mask)

    def __call__(self, rollout: Rollout, logps: Tensor, values: Tensor) -> ObjectiveOutput:
        """Return the loss of the policy and the value network, a mean over the rollout's tokens.

        Args:
            rollout: The sampled responses.
            logps: `[N, T]` log-probs of their tokens under the current policy, in nats.
            values: `[N, T]` values of the current value network.
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
            "clip_fraction": masked_mean((ratio != clipped).float(), mask),
            "approximate_kl": masked_mean(0.5 * (logps - rollout.logps).square(), mask),
        }
        loss = policy_loss + self.value_coefficient * value_loss
        return ObjectiveOutput(loss, {name: value.detach() for name, value in metrics.items()})


def adapt_beta(beta: float, kl: float, responses: int, target: float, horizon: float) -> float:
    """Return `beta (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon)` (Ziegler et al. 2019, section 2.2).

    Args:
        beta: Reward units per nat.
        kl: Measured KL divergence from the reference, in nats per response.
        responses: Number n of responses that it was measured on.
        target: The KL divergence to aim at, in nats per response.
        horizon: Responses over which beta changes by at most 20 %.

    Raises:
        ValueError: Beta could become 0 or negative: there are five times as many responses as the horizon has, or more.
    """
    if responses >= 5 * horizon:
        raise ValueError(
            f"kl_horizon {horizon:g} is too short for rounds of {responses} responses: one could make beta negative. "
            f"Set it to {responses} or more"
        )
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * responses / horizon)


def token_rewards(scores: Tensor, log_ratios: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return the reward of each token, `[N, T]`: `-beta (log pi - log pi_ref)`, plus the score at the last token.

    Args:
        scores: `[N]` rewards of the responses.
        log_ratios: `[N, T]` in nats.
        mask: `[N, T]` True where a token exists; padding is on the right.
        beta: Reward units per nat.
    """
    rewards = (-beta * log_ratios).masked_fill(~mask, 0.0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def estimate_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Return `A_t = sum_k (gamma lambda)^k delta_{t+k}`, `delta_t = r_t + gamma V_{t+1} - V_t`, `[N, T]`.

    Generalised advantage estimation (Schulman et al. 2016, eq. 16). The value after the last token is 0.
    """
    values = values.masked_fill(~mask, 0.0)
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = (rewards + gamma * after - values).masked_fill(~mask, 0.0)
    advantage, columns = torch.zeros_like(deltas[:, 0]), []
    for t in reversed(range(deltas.shape[1])):
        advantage = deltas[:, t] + gamma * gae_lambda * advantage
        columns.append(advantage)
    return torch.stack(columns[::-1], dim=1).masked_fill(~mask, 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values` with mean 0 and variance 1 over all tokens, 0 where masked."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    return ((values - mean) * (variance + 1e-8).rsqrt()).masked_fill(~mask, 0.0)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens that exist."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()
