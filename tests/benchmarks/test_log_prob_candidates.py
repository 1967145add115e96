"""The candidates for the log-prob step that run on a CPU compute what `token_logps` computes."""

import log_probs
import pytest
import torch

from rao_kedro.models import token_logps as module
from rao_kedro.models.token_logps import LogitScaling, token_logps

SCALINGS = [LogitScaling(), LogitScaling(factor=1.7, soft_cap=1.5, temperature=0.6)]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_fused_tiles_give_the_values_and_gradients_of_the_tiles(scaling, with_bias, compiled, monkeypatch):
    monkeypatch.setitem(module.TILE_SHAPE, "cpu", (3, 4))
    torch.manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*size, dtype=torch.float64).requires_grad_() for size in ((7, 5), (11, 5), (11,))
    )
    targets, upstream = torch.randint(11, (7,)), torch.randn(7, dtype=torch.float64)
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    bias = bias if with_bias else None
    elementwise = (
        log_probs.compiled_elementwise() if compiled else (log_probs.reduce_tile, log_probs.differentiate_tile)
    )
    found = log_probs.FusedTiles.apply(hidden, weight, bias, targets, scaling, torch.float64, elementwise)
    expected = token_logps(hidden, weight, bias, targets, scaling)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(logps, leaves, upstream) for logps in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("candidate", ["tiles", "all logits"])
def test_a_candidate_is_measured_with_its_error(candidate):
    found = log_probs.measure(candidate, vocabulary=50, tokens=8, width=16, device="cpu", repeats=1)
    assert found["seconds"] > 0 and found["difference"] < 0.05


def test_a_candidate_that_does_not_run_here_says_so(monkeypatch):
    def refuse(*inputs):
        raise ImportError("no kernel")

    monkeypatch.setitem(log_probs.CANDIDATES, "Liger", refuse)
    found = log_probs.measure("Liger", vocabulary=50, tokens=8, width=16, device="cpu", repeats=1)
    assert found == {"error": "ImportError: no kernel"}
