"""Log-probs of target tokens from hidden states, tile by tile: `[tokens, vocabulary]` never exists.

A tile is a block of rows and columns of the logits, small enough for a CPU's cache. The forward pass keeps the
log-sum-exp of each position; the backward pass computes the tiles again. Compiling what is done to a tile beside its
products gains nothing on a CPU; `benchmarks/log_probs.py` measures that and other kernels. Knows an output projection,
no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE_SHAPE = {"cpu": (512, 4096), "cuda": (2048, 8192)}  # rows, columns: 8 and 64 MB of logits in fp32


@dataclass(frozen=True)
class LogitScaling:
    """The scaling of logits before the softmax, in this order.

    Attributes:
        factor: Multiplies the logits, as the model does.
        soft_cap: Bounds them smoothly, as the model does: `cap * tanh(logits / cap)`; None for no bound.
        temperature: Divides them, as sampling does.
    """

    factor: float = 1.0
    soft_cap: float | None = None
    temperature: float = 1.0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the scaled logits."""
        logits = logits * self.factor if self.factor != 1.0 else logits
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits / self.temperature if self.temperature != 1.0 else logits

    def backward(self, gradient: Tensor, scaled: Tensor) -> Tensor:
        """Return the gradient of the raw logits, given that of the scaled logits."""
        if self.soft_cap is not None:
            gradient = gradient * (1 - (scaled * (self.temperature / self.soft_cap)).square())
        factor = self.factor / self.temperature
        return gradient * factor if factor != 1.0 else gradient


def token_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling) -> Tensor:
    """Return the log-prob of each target, `[N]` in nats, in fp32 (float64 where the model is).

    Args:
        hidden: `[N, hidden]` hidden states of the positions before the targets.
        weight: `[V, hidden]` weight of the output projection.
        bias: `[V]` bias of the output projection, if it has one.
        targets: `[N]` token ids.
        scaling: Scaling of the logits.
    """
    device = hidden.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        result: Tensor = _TokenLogps.apply(hidden, weight, bias, targets, scaling, compute)
    return result


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scaling: LogitScaling,
        compute: torch.dtype,
    ) -> Tensor:
        of_target = hidden.new_zeros(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        normalizer = torch.full_like(of_target, -torch.inf)
        for tile in _tiles(hidden, weight, bias, targets, scaling, compute):
            rows, logits = tile.rows, tile.logits
            of_target[rows] += torch.where(tile.has_target, logits.gather(1, tile.target[:, None])[:, 0], 0.0)
            normalizer[rows] = torch.logaddexp(normalizer[rows], logits.logsumexp(1))
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.scaling, ctx.compute = scaling, compute
        return of_target - normalizer

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        hidden_gradient = torch.zeros_like(hidden, dtype=normalizer.dtype) if of_hidden else None
        weight_gradient = torch.zeros_like(weight) if of_weight else None
        bias_gradient = torch.zeros_like(bias) if of_bias else None
        for tile in _tiles(hidden, weight, bias, targets, ctx.scaling, ctx.compute):
            rows, columns, scaled = tile.rows, tile.columns, tile.logits
            g = gradients[0][rows, None].to(scaled.dtype)
            d = scaled.clone() if ctx.scaling.soft_cap is not None else scaled
            d = d.sub_(normalizer[rows, None]).exp_().mul_(-g)  # of the scaled logits: g (onehot - softmax)
            d.scatter_add_(1, tile.target[:, None], g * tile.has_target[:, None])
            d = ctx.scaling.backward(d, scaled)
            if bias_gradient is not None:
                bias_gradient[columns] += d.sum(0)
            d = d.to(ctx.compute)
            if hidden_gradient is not None:
                _add_product(hidden_gradient[rows], d, tile.projection)
            if weight_gradient is not None:
                if rows.start == 0:
                    of_columns = torch.zeros_like(weight[columns], dtype=normalizer.dtype)
                _add_product(of_columns, d.T, tile.hidden)
                if rows.stop == len(targets):  # rounded once, where the weight is bf16
                    weight_gradient[columns] = of_columns
        return (
            hidden_gradient if hidden_gradient is None else hidden_gradient.to(hidden.dtype),
            weight_gradient,
            bias_gradient,
            None,
            None,
            None,
        )


@dataclass(frozen=True)
class _Tile:
    """A block of the logits.

    Attributes:
        rows: Its positions.
        columns: Its part of the vocabulary.
        hidden: `[rows, hidden]` in the compute precision.
        projection: `[columns, hidden]` in the compute precision.
        logits: `[rows, columns]`, scaled.
        has_target: `[rows]` True where the row's target is one of the columns.
        target: `[rows]` the column of the target; arbitrary where `has_target` is False.
    """

    rows: slice
    columns: slice
    hidden: Tensor
    projection: Tensor
    logits: Tensor
    has_target: Tensor
    target: Tensor


def _tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling, compute: torch.dtype
) -> Iterator[_Tile]:
    n_rows, n_columns = TILE_SHAPE["cuda" if hidden.device.type == "cuda" else "cpu"]
    computed = hidden.to(compute)
    for start in range(0, len(weight), n_columns):
        columns = slice(start, min(start + n_columns, len(weight)))
        projection = weight[columns].to(compute)
        for first in range(0, len(targets), n_rows):
            rows = slice(first, min(first + n_rows, len(targets)))
            logits = (computed[rows] @ projection.T).to(torch.promote_types(hidden.dtype, torch.float32))
            if bias is not None:
                logits += bias[columns]
            target = targets[rows] - start
            has_target = (target >= 0) & (target < len(projection))
            target = target.clamp(0, len(projection) - 1)
            yield _Tile(rows, columns, computed[rows], projection, scaling(logits), has_target, target)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
