"""Candidates for the log-prob step, one by one: seconds of a forward and a backward pass, and peak memory.

    python benchmarks/log_probs.py '{"candidate": "tiles", "vocabulary": 49152}'

prints one JSON object. Without an argument, every candidate is measured in a process of its own at three vocabularies;
the last line is JSON. A candidate whose package is missing, or that does not run on the device, says so, and the others
are measured.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rao_kedro.models.token_logps import TILE_SHAPE, LogitScaling, token_logps
from rao_kedro.training.forecast import peak_memory

VOCABULARIES = (49_152, 128_256, 262_144)
Candidate = Callable[[Tensor, Tensor, Tensor | None, Tensor, LogitScaling], Tensor]


def reduce_tile(raw: Tensor, bias: Tensor | None, target: Tensor, scaling: LogitScaling) -> tuple[Tensor, Tensor]:
    """Return per row the scaled logit of its target (0 if it is in another tile) and the log-sum-exp, `[rows]` each.

    Args:
        raw: `[rows, columns]` products of hidden states and projection, in the compute precision.
        bias: `[columns]`, if there is one.
        target: `[rows]` the column of the target; it may lie outside the tile.
        scaling: Scaling of the logits.
    """
    scaled = _scaled(raw, bias, scaling)
    largest = scaled.amax(1)
    of_target = torch.where(_is_target(raw, target), scaled, 0.0).sum(1)
    return of_target, (scaled - largest[:, None]).exp().sum(1).log() + largest


def differentiate_tile(
    raw: Tensor, bias: Tensor | None, target: Tensor, normalizer: Tensor, upstream: Tensor, scaling: LogitScaling
) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of the raw logits in their precision, and that of the bias.

    Args:
        raw: As in `reduce_tile`.
        bias: As in `reduce_tile`.
        target: As in `reduce_tile`.
        normalizer: `[rows]` log-sum-exp over the whole vocabulary.
        upstream: `[rows]` gradient of the log-probs.
        scaling: Scaling of the logits.
    """
    scaled = _scaled(raw, bias, scaling)
    gradient = (_is_target(raw, target).to(scaled.dtype) - (scaled - normalizer[:, None]).exp()) * upstream[:, None]
    gradient = scaling.backward(gradient, scaled)
    return gradient.to(raw.dtype), None if bias is None else gradient.sum(0)


def _scaled(raw: Tensor, bias: Tensor | None, scaling: LogitScaling) -> Tensor:
    logits = raw.to(torch.promote_types(raw.dtype, torch.float32))
    return scaling(logits if bias is None else logits + bias)


def _is_target(raw: Tensor, target: Tensor) -> Tensor:
    return torch.arange(raw.shape[1], device=raw.device) == target[:, None]


@cache
def compiled_elementwise() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return both functions of a tile, each compiled once for tiles of every shape."""
    return torch.compile(reduce_tile, dynamic=True), torch.compile(differentiate_tile, dynamic=True)


class FusedTiles(torch.autograd.Function):
    """Log-probs as `token_logps` computes them, with two functions for what is done to a tile beside its products."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scaling: LogitScaling,
        compute: torch.dtype,
        elementwise: tuple[Callable[..., Any], Callable[..., Any]],
    ) -> Tensor:
        """Return the log-prob of each target, `[N]`."""
        of_target = hidden.new_zeros(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        normalizer = torch.full_like(of_target, -torch.inf)
        ctx.settings = scaling, compute, elementwise[1]
        for rows, columns, states, projection in _blocks(hidden, weight, compute):
            of_bias = None if bias is None else bias[columns]
            found, total = elementwise[0](states @ projection.T, of_bias, targets[rows] - columns.start, scaling)
            of_target[rows] += found
            normalizer[rows] = torch.logaddexp(normalizer[rows], total)
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        return of_target - normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of hidden states, weight and bias."""
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        scaling, compute, differentiate = ctx.settings
        of_hidden = torch.zeros_like(hidden, dtype=normalizer.dtype)
        of_weight, of_bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
        for rows, columns, states, projection in _blocks(hidden, weight, compute):
            d, of_columns = differentiate(
                states @ projection.T,
                None if bias is None else bias[columns],
                targets[rows] - columns.start,
                normalizer[rows],
                gradients[0][rows],
                scaling,
            )
            of_hidden[rows] += d @ projection
            of_weight[columns] += d.T @ states
            if of_bias is not None:
                of_bias[columns] += of_columns
        return of_hidden.to(hidden.dtype), of_weight, of_bias, None, None, None, None


def _blocks(hidden: Tensor, weight: Tensor, compute: torch.dtype) -> Any:
    """Yield rows, columns, and the hidden states and the projection of each tile in the compute precision."""
    n_rows, n_columns = TILE_SHAPE["cuda" if hidden.device.type == "cuda" else "cpu"]
    computed = hidden.to(compute)
    for start in range(0, len(weight), n_columns):
        columns = slice(start, min(start + n_columns, len(weight)))
        projection = weight[columns].to(compute)
        for first in range(0, len(hidden), n_rows):
            rows = slice(first, min(first + n_rows, len(hidden)))
            yield rows, columns, computed[rows], projection


def _compiled_tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling
) -> Tensor:
    logps: Tensor = FusedTiles.apply(hidden, weight, bias, targets, scaling, weight.dtype, compiled_elementwise())
    return logps


def _cut_cross_entropy(filter_eps: str | None) -> Candidate:
    def candidate(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling
    ) -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        assert bias is None and scaling.factor == scaling.temperature == 1.0
        options = {"softcap": scaling.soft_cap, "reduction": "none", "filter_eps": filter_eps}
        return -linear_cross_entropy(hidden, weight, targets, **options).float()

    return candidate


def _liger(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    assert scaling.factor == scaling.temperature == 1.0
    options = {"bias": bias, "softcap": scaling.soft_cap, "reduction": "none"}
    return -liger_fused_linear_cross_entropy(hidden, weight, targets, **options).float()


def _all_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling) -> Tensor:
    logits = scaling(torch.nn.functional.linear(hidden, weight, bias).float())
    return logits.log_softmax(1).gather(1, targets[:, None])[:, 0]


CANDIDATES: dict[str, Candidate] = {
    "tiles": token_logps,
    "compiled tiles": _compiled_tiles,
    "cut-cross-entropy, exact gradients": _cut_cross_entropy(None),
    "cut-cross-entropy, filtered gradients": _cut_cross_entropy("auto"),
    "Liger": _liger,
    "all logits": _all_logits,
}


def measure(
    candidate: str,
    vocabulary: int,
    tokens: int = 4096,
    width: int = 2048,
    dtype: str = "bfloat16",
    device: str | None = None,
    repeats: int = 5,
) -> dict[str, Any]:
    """Return the seconds of a forward and a backward pass, the first pass's seconds, and the memory at the peak.

    On a CPU the peak is that of the process, so that it means something for the first candidate of a process only.

    Args:
        candidate: A name in `CANDIDATES`.
        vocabulary: Rows of the output projection.
        tokens: Target tokens.
        width: Width of the hidden states.
        dtype: Precision of hidden states and weight.
        device: Where to compute; a GPU if there is one.
        repeats: Passes after the first; their median counts.

    Returns:
        `seconds`, `first_seconds`, `peak_gb` (beyond inputs and their gradients) and `difference` (largest, in nats,
        from the fp32 log-probs of up to 64 tokens), or `error`.
    """
    on = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(0)
    precision = getattr(torch, dtype)
    hidden = torch.randn(tokens, width, dtype=precision, device=on).requires_grad_()
    weight = torch.randn(vocabulary, width, dtype=precision, device=on).mul_(0.02).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), device=on)
    for tensor in (hidden, weight):
        tensor.grad = torch.zeros_like(tensor)
    if on.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(on)
    before, seconds = peak_memory(on), []
    try:
        for _ in range(repeats + 1):
            _wait(on)
            started = time.perf_counter()
            logps = CANDIDATES[candidate](hidden, weight, None, targets, LogitScaling())
            logps.sum().backward()
            _wait(on)
            seconds.append(time.perf_counter() - started)
        peak = peak_memory(on) - before
        with torch.no_grad():
            exact = _all_logits(hidden[:64].float(), weight.float(), None, targets[:64], LogitScaling())
            difference = float((logps[:64] - exact).abs().max())
    except Exception as error:  # a missing package, a refused device, too little memory: the other candidates go on
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    rest = seconds[1:] or seconds
    return {
        "seconds": statistics.median(rest),
        "first_seconds": seconds[0],
        "peak_gb": peak / 1e9,
        "difference": difference,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_alone(**request: Any) -> dict[str, Any]:
    """Return what `measure` returns in a process of its own."""
    done = subprocess.run([sys.executable, __file__, json.dumps(request)], capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.splitlines() or ["no output"])[-1][:200]}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Measure one request, or every candidate at every vocabulary."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(**json.loads(sys.argv[1]))))
        return
    on_cpu = {} if torch.cuda.is_available() else {"tokens": 1024, "width": 576, "repeats": 2}
    rows = []
    for vocabulary in VOCABULARIES:
        for candidate in CANDIDATES:
            rows.append({"candidate": candidate, "vocabulary": vocabulary, **on_cpu})
            rows[-1] |= measure_alone(**rows[-1])
            print(rows[-1], flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
