"""An emulation on the CPU of the flash kernel behind `torch.nn.attention.varlen.varlen_attn`, sequence by sequence.

It replaces the kernel only: arguments, autograd formula and the shapes for compilation are torch's own.
"""

import torch
from torch.nn.attention import varlen

from rao_kedro.models import attention

calls: list[tuple[int, int]] = []  # longest queries and keys of every call


def sequences(query, key, value, cu_q, cu_k, max_q, max_k, scale, window_size):
    """Yield per sequence its queries, keys, values, weights `[heads, queries, keys]` and scale, after its checks."""
    n_q, n_k = cu_q.diff().tolist(), cu_k.diff().tolist()
    assert cu_q.dtype == cu_k.dtype == torch.int32 and cu_q[0] == cu_k[0] == 0
    assert (cu_q[-1], cu_k[-1]) == (len(query), len(key)) and (max_q, max_k) == (max(n_q), max(n_k))
    assert query.dtype == key.dtype == value.dtype and query.shape[2] % 8 == 0 and query.shape[2] <= 256
    assert all(x.stride(2) == 1 for x in (query, key, value)) and window_size[1] == 0
    scale, left = query.shape[2] ** -0.5 if scale is None else scale, window_size[0]
    for q, k, v in zip(query.split(n_q), key.split(n_k), value.split(n_k), strict=True):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        behind = torch.arange(len(k) - len(q), len(k))[:, None] - torch.arange(len(k))  # aligned at the end
        hidden = (behind < 0) | (behind > (len(k) if left < 0 else left))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        yield q, k, v, scores.masked_fill(hidden, -torch.inf).softmax(-1), scale


def forward(query, key, value, cu_q, cu_k, max_q, max_k, is_causal=False, scale=None, window_size=None, *_):
    """Stand for `_flash_attention_forward`; the log-sum-exp is not needed by `backward`."""
    calls.append((max_q, max_k))
    assert is_causal == (window_size == [-1, 0])
    parts = sequences(query, key, value, cu_q, cu_k, max_q, max_k, scale, window_size)
    out = torch.cat([torch.einsum("hqk,khd->qhd", weights, v) for _, _, v, weights, _ in parts])
    return out, query.new_zeros(query.shape[1], len(query), dtype=torch.float32), torch.zeros(2, dtype=torch.uint64)


def backward(
    grad_out, query, key, value, out, lse, cu_q, cu_k, max_q, max_k, is_causal, rng_state, scale=None, window_size=None
):
    """Stand for `_flash_attention_backward`."""
    parts = sequences(query, key, value, cu_q, cu_k, max_q, max_k, scale, window_size)
    gradients = []
    for (q, k, v, weights, factor), g in zip(parts, grad_out.split(cu_q.diff().tolist()), strict=True):
        of_weights = torch.einsum("qhd,khd->hqk", g, v)
        of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True)) * factor
        grouped = (len(k), key.shape[1], -1, q.shape[2])
        gradients.append(
            (
                torch.einsum("hqk,khd->qhd", of_scores, k),
                torch.einsum("hqk,qhd->khd", of_scores, q).view(grouped).sum(2),
                torch.einsum("hqk,qhd->khd", weights, g).view(grouped).sum(2),
            )
        )
    dq, dk, dv = (torch.cat(columns) for columns in zip(*gradients, strict=True))
    return dq, dk, dv


varlen._varlen_attn.register_kernel("cpu", forward)
varlen._varlen_attn_backward.register_kernel("cpu", backward)


def use_varlen(monkeypatch, *dtypes):
    """Send packed attention down the path of CUDA, in half precision and the given dtypes."""
    monkeypatch.setattr("rao_kedro.models.packing.has_varlen_kernel", lambda device: True)
    monkeypatch.setattr(attention, "KERNEL_DTYPES", {torch.bfloat16, torch.float16, *dtypes})
    calls.clear()
