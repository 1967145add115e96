"""log Z_0 estimated from rewards of the reference's responses: against plain sums, and in a world whose Z is known."""

import math
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ToyWorld

from rao_kedro.objectives.log_z0 import estimate_log_z0

rewards = st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=6), min_size=2, max_size=5)


def log_mean_exp(values, beta):
    return math.log(fmean(math.exp(value / beta) for value in values))


def test_the_arithmetic_of_two_prompts():
    """beta 1. Prompt 1, exp(r) = (1, 3): log 2, without each log 3 and log 1. Prompt 2, (4, 4): log 4, twice log 4.

    Value (log 2 + log 4) / 2 = 1.039721; error |log 4 - log 2| / sqrt 2 / sqrt 2 = 0.346574;
    bias ((log 3 / 2 - log 2) + 0) / 2 = -0.071921.
    """
    found = estimate_log_z0([[0.0, math.log(3)], [math.log(4)] * 2], beta=1.0)
    assert found.value == pytest.approx(1.039721, abs=1e-6)
    assert found.standard_error == pytest.approx(0.346574, abs=1e-6)
    assert found.bias == pytest.approx(-0.071921, abs=1e-6)
    assert (found.prompts, found.samples) == (2, 4)


@settings(deadline=None, max_examples=50)
@given(rewards=rewards, beta=st.floats(0.1, 2))
def test_estimate_error_and_jackknife_equal_those_of_plain_sums(rewards, beta):
    found = estimate_log_z0(rewards, beta)
    values = [log_mean_exp(of, beta) for of in rewards]
    without = [[log_mean_exp(of[:j] + of[j + 1 :], beta) for j in range(len(of))] for of in rewards]
    bias = fmean((len(of) - 1) * (fmean(left) - v) for of, left, v in zip(rewards, without, values, strict=True))
    assert found.value == pytest.approx(fmean(values), abs=1e-9)
    assert found.standard_error == pytest.approx(stdev(values) / math.sqrt(len(values)), abs=1e-9)
    assert found.bias == pytest.approx(bias, abs=1e-8)
    assert found.bias <= 1e-9  # the logarithm is concave


@settings(deadline=None, max_examples=25)
@given(rewards=rewards, shift=st.floats(-5, 5))
def test_a_shift_of_all_rewards_moves_the_estimate_by_as_many_nats(rewards, shift):
    plain, shifted = (estimate_log_z0([[r + s for r in of] for of in rewards], 0.5) for s in (0.0, shift))
    assert shifted.value == pytest.approx(plain.value + shift / 0.5, abs=1e-9)
    assert shifted[1:] == pytest.approx(plain[1:], abs=1e-8)


def test_small_beta_neither_overflows_nor_loses_the_rest():
    found = estimate_log_z0([[0.0, 1.0, 5.0], [0.0, -1.0]], beta=1e-3)
    assert found.value == pytest.approx(((5000 - math.log(3)) + (0 - math.log(2))) / 2)
    # Without its largest sample the first prompt has 1000 - log 2, otherwise 5000 - log 2; the second -1000 and 0.
    first = 2 * ((1000 + 2 * 5000) / 3 - math.log(2) - (5000 - math.log(3)))
    assert found.bias == pytest.approx((first + (-500 + math.log(2))) / 2)


def test_prompts_without_samples_do_not_count_and_one_prompt_or_sample_has_no_error():
    found = estimate_log_z0([[], [0.5], []], beta=0.5)
    assert found.value == pytest.approx(1.0) and (found.prompts, found.samples) == (1, 1)
    assert math.isnan(found.standard_error) and math.isnan(found.bias)
    with pytest.raises(ValueError, match="needs reference rewards of one prompt at least"):
        estimate_log_z0([[], []], beta=0.5)


@pytest.mark.parametrize("n", [4, 64])
def test_samples_of_the_reference_estimate_the_mean_log_z_of_the_prompts_with_the_bias_that_is_said(n):
    """An enumerable world: 2000 draws of n responses to each of two prompts, against the exact normalisers."""
    world, generator = ToyWorld(vocabulary=2, length=4, beta=0.3), torch.Generator().manual_seed(0)
    prompts, responses = world.continuations(1), world.continuations(3)
    exact = fmean(float(world.log_z(x)) for x in prompts)
    drawn = []
    for x in prompts:
        probabilities = torch.stack([world.reference.logp(x + y, 1) for y in responses]).exp()
        of_prompt = torch.stack([world.reward[x + y] for y in responses])
        picked = torch.multinomial(probabilities, 2000 * n, replacement=True, generator=generator)
        drawn.append(of_prompt[picked].reshape(2000, n))
    estimates = [estimate_log_z0([of[i].tolist() for of in drawn], world.beta) for i in range(2000)]
    values, biases = ([getattr(one, name) for one in estimates] for name in ("value", "bias"))
    error = stdev(values) / math.sqrt(2000)
    assert fmean(values) - exact < -3 * error if n == 4 else abs(fmean(values) - exact) < 0.02
    corrected = fmean(values) - fmean(biases)
    assert abs(corrected - exact) < 0.25 * abs(fmean(values) - exact) + 3 * error


def test_what_is_rarer_than_one_sample_in_n_is_not_seen():
    """Normal rewards have log Z = 1 / (2 beta^2): 8 samples see most of it with beta 1, and a quarter with beta 0.1."""
    drawn = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    mild, sharp = (estimate_log_z0(drawn, beta) for beta in (1.0, 0.1))
    assert mild.value == pytest.approx(0.41, abs=0.01) and mild.value - mild.bias == pytest.approx(0.49, abs=0.01)
    assert sharp.value == pytest.approx(12.3, abs=0.2) and sharp.bias == pytest.approx(-4.1, abs=0.2)
