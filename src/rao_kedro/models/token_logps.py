"""Log-probs of target tokens from hidden states, tile by tile: `[tokens, vocabulary]` never exists.

The forward pass keeps the log-sum-exp of each position; the backward pass computes a tile of logits again. Knows an
output projection; no model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TILE_ELEMENTS = 2**24  # logits of a tile: 64 MB in fp32


@dataclass(frozen=True)
class LogitScaling:
    """What a model does to its logits before the softmax, and what sampling does.

    Attributes:
        factor: Multiplies them.
        soft_cap: Then bounds them smoothly: `cap * tanh(logits / cap)`.
        temperature: Then divides them.
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
        """Turn the gradient of scaled logits into that of the raw ones."""
        if self.soft_cap is not None:
            gradient = gradient * (1 - (scaled * (self.temperature / self.soft_cap)).square())
        factor = self.factor / self.temperature
        return gradient * factor if factor != 1.0 else gradient


def token_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: LogitScaling) -> Tensor:
    """Return the log-prob of each target, `[N]` in nats, in fp32 (float64 where the model is).

    Args:
        hidden: `[N, hidden]` states of the positions before the targets.
        weight: `[V, hidden]` of the output projection.
        bias: `[V]` of it, if it has one.
        targets: `[N]` token ids.
        scaling: Of the logits.
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
        projection, h = weight.to(compute), hidden.to(compute)
        logps, normalizers = [], []
        for rows in _tiles(len(targets), len(weight)):
            logits = _logits(h[rows], projection, bias, scaling)
            normalizer = logits.logsumexp(1)
            logps.append(logits.gather(1, targets[rows, None])[:, 0] - normalizer)
            normalizers.append(normalizer)
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(normalizers))
        ctx.scaling, ctx.compute = scaling, compute
        return torch.cat(logps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizers = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        projection, h = weight.to(ctx.compute), hidden.to(ctx.compute)
        hidden_gradient = torch.empty_like(hidden) if of_hidden else None
        weight_gradient = torch.zeros_like(weight) if of_weight else None
        bias_gradient = torch.zeros_like(bias) if of_bias else None
        for rows in _tiles(len(targets), len(weight)):
            scaled = _logits(h[rows], projection, bias, ctx.scaling)
            g = gradients[0][rows, None].to(scaled.dtype)
            d = scaled.clone() if ctx.scaling.soft_cap is not None else scaled
            d = d.sub_(normalizers[rows, None]).exp_().mul_(-g)  # of the scaled logits: g (onehot - softmax)
            d = ctx.scaling.backward(d.scatter_add_(1, targets[rows, None], g), scaled)
            tile = d.to(ctx.compute)
            if hidden_gradient is not None:
                hidden_gradient[rows] = (tile @ projection).to(hidden.dtype)
            if weight_gradient is not None:
                if tile.dtype == weight.dtype:
                    weight_gradient.addmm_(tile.T, h[rows])
                else:
                    weight_gradient += tile.T @ h[rows]
            if bias_gradient is not None:
                bias_gradient += d.sum(0)
        return hidden_gradient, weight_gradient, bias_gradient, None, None, None


def _logits(hidden: Tensor, projection: Tensor, bias: Tensor | None, scaling: LogitScaling) -> Tensor:
    logits = hidden @ projection.T
    if bias is not None:
        logits = logits + bias
    return scaling(logits if logits.dtype == torch.float64 else logits.float())


def _tiles(n: int, vocabulary: int) -> list[slice]:
    size = max(1, TILE_ELEMENTS // vocabulary)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
