"""Solves or estimates RAO's normaliser log Z_0 from rewards. Plain numbers; knows no model."""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from statistics import fmean, stdev
from typing import Literal, NamedTuple

Reduction = Literal["prompt_mean", "flat"]


def solve_log_z0(
    rewards: Iterable[Sequence[float]], beta: float, margin: float = 0.0, reduction: Reduction = "prompt_mean"
) -> float:
    """Solve `mean target log-ratio = margin` for log Z_0 before the first update, where every D_i is 0.

    Args:
        rewards: Explicit rewards, `[groups][responses]`.
        beta: Strength of the KL constraint, reward units per nat.
        margin: Mean target log-ratio to reach, in nats; a positive one raises the likelihood of the average response.
        reduction: Mean over a group's responses, then over groups; or over all responses (`flat`).

    Returns:
        `mean r / beta - margin`, in nats.
    """
    mean = fmean(chain.from_iterable(rewards)) if reduction == "flat" else fmean(fmean(group) for group in rewards)
    return mean / beta - margin


def largest_raising_log_z0(chosen_rewards: Iterable[float], beta: float) -> float:
    """Return the largest log Z_0, in nats, whose mean target log-ratio of the chosen responses is at least 0.

    Args:
        chosen_rewards: Reward of each group's chosen response.
        beta: Strength of the KL constraint, reward units per nat.
    """
    return fmean(chosen_rewards) / beta


class LogZ0Estimate(NamedTuple):
    """An estimate of log Z_0.

    Attributes:
        value: The estimate, in nats.
        standard_error: Over prompts, in nats; NaN for fewer than two prompts.
        bias: What the finite number of samples adds to the value, in nats, by the jackknife; NaN where no prompt has
            two samples. It is below 0: the logarithm is concave (Jensen).
        prompts: Number of prompts with a sample.
        samples: Number of samples of all prompts.
    """

    value: float
    standard_error: float
    bias: float
    prompts: int
    samples: int


def estimate_log_z0(reference_rewards: Iterable[Sequence[float]], beta: float) -> LogZ0Estimate:
    """Estimate log Z_0 from rewards of responses that were sampled from the reference.

    The normaliser of a prompt is `Z(x) = E_{y ~ pi_ref(.|x)} exp(r(x, y) / beta)`, so that n samples estimate
    `log Z(x)` by `log mean_j exp(r_j / beta)`. RAO uses one constant c in the place of all log Z(x_i), since every D_i
    is 0 before the first update: the estimate is the mean of log Z(x_i) over the prompts. Of all constants it has the
    least squared error `mean_i (c - log Z(x_i))^2`. At the optimum `h = r / beta - log Z(x_i)` RAO's residuals are
    `beta (log Z(x_i) - c)`: with this c their mean is 0. It weighs every prompt equally under both reductions.

    The normaliser of the prefix t_0 itself would be `log mean_i Z(x_i)` for prompts that the reference had sampled
    after t_0. Prompts of data are no such samples, and the largest of the Z(x_i) alone would decide that mean.

    n samples never estimate more than the largest `r / beta`. Where rewards spread over many multiples of beta, log Z
    is far above that, and the jackknife finds a part of the bias only: normal rewards with standard deviation 1 have
    `log Z = 1 / (2 beta^2)`.

    Args:
        reference_rewards: `[prompts][samples]`; a prompt without samples does not count.
        beta: Strength of the KL constraint, reward units per nat.

    Raises:
        ValueError: No prompt has a sample.
    """
    of_prompts = [[reward / beta for reward in rewards] for rewards in reference_rewards if len(rewards)]
    if not of_prompts:
        raise ValueError('log_z0 "estimated" needs reference rewards of one prompt at least, and there are none')
    values = [_log_mean_exp(exponents) for exponents in of_prompts]
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    biases = [
        (len(exponents) - 1) * (fmean(_log_means_without_each(exponents)) - value)
        for exponents, value in zip(of_prompts, values, strict=True)
        if len(exponents) > 1
    ]
    bias = fmean(biases) if biases else math.nan
    return LogZ0Estimate(fmean(values), error, bias, len(values), sum(map(len, of_prompts)))


def _log_mean_exp(exponents: Sequence[float]) -> float:
    largest = max(exponents)
    return largest + math.log(fmean(math.exp(exponent - largest) for exponent in exponents))


def _log_means_without_each(exponents: Sequence[float]) -> list[float]:
    """Return `log mean exp` of all exponents but one, for each of them: of those before it and of those after it."""
    before = [*accumulate(exponents[:-1], _log_add_exp, initial=-math.inf)]
    after = [*accumulate(exponents[:0:-1], _log_add_exp, initial=-math.inf)][::-1]
    n = len(exponents) - 1
    return [_log_add_exp(a, b) - math.log(n) for a, b in zip(before, after, strict=True)]


def _log_add_exp(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))
