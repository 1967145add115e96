"""Tiled log-probs against log_softmax of all logits, with gradients."""

import pytest
import torch

from rao_kedro.models import token_logps as module
from rao_kedro.models.token_logps import LogitScaling, token_logps

SCALINGS = [
    LogitScaling(),
    LogitScaling(factor=0.3),
    LogitScaling(soft_cap=2.0),
    LogitScaling(factor=1.7, soft_cap=1.5, temperature=0.6),
]


def inputs(dtype=torch.float64, n=7, vocabulary=11, width=5):
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, width, dtype=dtype), torch.randn(vocabulary, width, dtype=dtype)
    bias, targets = torch.randn(vocabulary, dtype=dtype), torch.randint(vocabulary, (n,))
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_log_softmax(scaling, with_bias, monkeypatch):
    monkeypatch.setitem(module.TILE_SHAPE, "cpu", (2, 4))
    hidden, weight, bias, targets = inputs()
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    upstream = torch.randn(len(targets), dtype=torch.float64)
    found = token_logps(hidden, weight, bias if with_bias else None, targets, scaling)
    logits = torch.nn.functional.linear(hidden, weight, bias if with_bias else None) * scaling.factor
    if scaling.soft_cap:
        logits = scaling.soft_cap * torch.tanh(logits / scaling.soft_cap)
    plain = (logits / scaling.temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, plain)
    ours, theirs = (torch.autograd.grad(logps, leaves, upstream) for logps in (found, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_a_frozen_projection_gets_no_gradient_and_the_hidden_states_do():
    hidden, weight, _, targets = inputs()
    weight.requires_grad_(False)
    token_logps(hidden, weight, None, targets, LogitScaling()).sum().backward()
    logits = torch.nn.functional.linear(hidden, weight)
    (expected,) = torch.autograd.grad(logits.log_softmax(-1).gather(1, targets[:, None]).sum(), hidden)
    assert weight.grad is None
    torch.testing.assert_close(hidden.grad, expected)


def test_under_autocast_logits_are_of_its_precision_and_gradients_of_the_weights():
    hidden, weight, _, targets = inputs(torch.float32, n=40, vocabulary=300, width=16)
    with torch.autocast("cpu", torch.bfloat16):
        logps = token_logps(hidden, weight, None, targets, LogitScaling())
        plain = torch.nn.functional.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps, plain, rtol=1e-5, atol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(x.sum(), weight) for x in (logps, plain))
    assert ours.dtype == torch.float32 and (ours - theirs).norm() < 0.01 * theirs.norm()


def test_the_gradient_of_a_bf16_weight_is_rounded_once_however_many_tiles_add_to_it(monkeypatch):
    monkeypatch.setitem(module.TILE_SHAPE, "cpu", (2, 16))
    torch.manual_seed(0)
    hidden, targets = torch.randn(256, 8).bfloat16(), torch.randint(0, 40, (256,))
    gradients = []
    for dtype in (torch.float64, torch.bfloat16):
        weight = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)).bfloat16().to(dtype).requires_grad_()
        token_logps(hidden.to(dtype), weight, None, targets, LogitScaling()).sum().backward()
        gradients.append(weight.grad.double())
    expected, found = gradients
    assert (found - expected).norm() < 4e-3 * expected.norm()
