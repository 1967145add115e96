"""Attention over packed prompt groups: a prompt attends to itself once, each response to the prompt and itself.

A packed row is a batch of ordinary causal sequences whose keys are gathered. The keys of a prompt are its own; those of
a response are the prompt's and its own. A variable-length flash kernel computes a whole row in one call where there is
one, and a loop of SDPA calls elsewhere.

It is registered in transformers' attention interface, so that the decoders of transformers can use it. Without a
layout, as in text generation, it is transformers' SDPA. Knows segment lengths only. Tests compare it with the dense
mask.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rao_kedro.errors import ModelError

PACKED = "packed_groups"
QUERY_BLOCK = 256  # queries per SDPA call with a mask; a call also computes the scores that its mask hides


class CausalSequences(NamedTuple):
    """A packed row as S causal sequences with gathered keys: tensors and numbers, so that compiled layers can read it.

    The queries of a sequence are at the last positions of its keys.

    Attributes:
        key_index: `[N]` positions in the row of the keys of all sequences, one sequence after the other.
        cu_q: `[S + 1]` int32, where the queries of each sequence begin in the row.
        cu_k: `[S + 1]` int32, where the keys of each sequence begin in `key_index`.
        max_q: Queries of the longest sequence.
        max_k: Keys of the longest sequence.
    """

    key_index: Tensor
    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int


@dataclass(frozen=True)
class PackLayout:
    """The segments of a packed row.

    Attributes:
        groups: Per group, the number of tokens of its prompt and of each of its responses.
    """

    groups: tuple[tuple[int, ...], ...]
    _cache: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment, in the order of the row."""
        return [n for group in self.groups for n in group]

    @property
    def longest_row(self) -> int:
        """The largest number of tokens that a prompt and one of its responses have together."""
        return max(n_prompt + max(responses) for n_prompt, *responses in self.groups)

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return the result of `make`, which is called once per key and shared by all layers."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def sequences(self, device: torch.device) -> CausalSequences:
        """Return the row as causal sequences with gathered keys."""

        def make() -> CausalSequences:
            index, n_keys, start = [], [], 0
            for n_prompt, *responses in self.groups:
                prompt = torch.arange(start, start + n_prompt)
                index.append(prompt)
                n_keys.append(n_prompt)
                start += n_prompt
                for n in responses:
                    index += [prompt, torch.arange(start, start + n)]
                    n_keys.append(n_prompt + n)
                    start += n
            cu_q, cu_k = (
                torch.tensor([0, *accumulate(n)], dtype=torch.int32, device=device) for n in (self.lengths, n_keys)
            )
            return CausalSequences(torch.cat(index).to(device), cu_q, cu_k, max(self.lengths), max(n_keys))

        sequences: CausalSequences = self.cached(("sequences", device), make)
        return sequences

    def dense_mask(self, device: torch.device | None = None, window: int | None = None) -> Tensor:
        """Return `[T, T]` booleans: True where the token of the row attends to the token of the column."""
        columns: tuple[list[int], list[int], list[int]] = ([], [], [])
        for g, (n_prompt, *responses) in enumerate(self.groups):
            for b, n in enumerate([n_prompt, *responses]):
                start = n_prompt if b else 0
                for column, values in zip(columns, ([g] * n, [b] * n, range(start, start + n)), strict=True):
                    column.extend(values)
        group, branch, position = (torch.tensor(column, device=device) for column in columns)
        token = torch.arange(len(group), device=device)
        behind = position[:, None] - position
        same_branch = (branch == 0) | (branch[:, None] == branch)
        visible = (token[:, None] >= token) & (group[:, None] == group) & same_branch
        return visible if window is None else visible & (behind < window)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_layout: PackLayout | None = None,
    packed_sequences: CausalSequences | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the attention output `[1, T, heads, width]` of a packed row; see transformers' `AttentionInterface`.

    Args:
        module: The attention layer.
        query: `[1, heads, T, width]`.
        key: `[1, key heads, T, width]`.
        value: `[1, key heads, T, width]`.
        attention_mask: Used where `packed_layout` is None.
        dropout: Dropout rate of the attention weights.
        scaling: Multiplies the scores.
        packed_layout: The segments of the row.
        packed_sequences: The same as causal sequences, where the device has a variable-length kernel.
        **kwargs: `sliding_window`, `softcap` (scores become `softcap * tanh(scores / softcap)`), and, without a layout,
            the arguments of transformers' SDPA.

    Raises:
        ModelError: The layer has attention sinks.
    """
    if packed_layout is None:
        return _without_layout(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    if kwargs.get("s_aux") is not None:
        raise ModelError(f"{type(module).__name__} has attention sinks, which packed groups do not support")
    window, softcap = kwargs.get("sliding_window"), kwargs.get("softcap")
    if packed_sequences is not None and not dropout and softcap is None:
        dtype = _compute_dtype(query)
        if dtype in KERNEL_DTYPES and _kernel_computes(query.shape[3]):
            query, key, value = (states.to(dtype) for states in (query, key, value))
            return attend_varlen(query, key, value, packed_sequences, scaling, window), None
    return _by_segment(query, key, value, Scores(scaling, window, softcap, dropout), packed_layout), None


@torch.compiler.disable  # generation: rows and caches of ever new lengths
def _without_layout(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend as transformers' SDPA does, which leaves a soft cap out."""
    if (softcap := kwargs.get("softcap")) is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is None:
        rows, columns = query.shape[2], key.shape[2]
        attention_mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
    if attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
    scores = Scores(kwargs["scaling"], softcap=softcap, dropout=kwargs["dropout"])
    return _soft_capped(query, key, value, attention_mask, scores).transpose(1, 2), None


KERNEL_DTYPES = {torch.bfloat16, torch.float16}
# torch 2.11 has no such argument, and always computes grouped queries.
_GQA: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


def has_varlen_kernel(device: torch.device) -> bool:
    """Return whether torch has a variable-length flash kernel for the device: a GPU from NVIDIA's Ampere on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _kernel_computes(width: int) -> bool:
    """Return whether the kernel takes heads of this width, with gradients, on every GPU that has it."""
    return width % 8 == 0 and (16 <= width <= 192 or 224 < width <= 256)


def _compute_dtype(states: Tensor) -> torch.dtype:
    device = states.device.type
    if states.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return states.dtype


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: CausalSequences,
    scaling: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Return the attention output `[1, T, heads, width]` of a packed row by one call of the variable-length kernel.

    Args:
        query: `[1, heads, T, width]`.
        key: `[1, key heads, T, width]`.
        value: `[1, key heads, T, width]`.
        sequences: The causal sequences of the row.
        scaling: Multiplies the scores; None divides them by the square root of the width.
        window: Number of positions that a token attends to, its own included; None for all.
    """
    keys, values = (_Gather.apply(states[0].transpose(0, 1), sequences.key_index) for states in (key, value))
    output = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        keys,
        values,
        sequences.cu_q,
        sequences.cu_k,
        sequences.max_q,
        sequences.max_k,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **_GQA,
    )
    assert isinstance(output, Tensor)  # no auxiliary output was asked for
    return output[None]


class _Gather(torch.autograd.Function):
    """`states[index]`. The gradients of a prompt, one from each of its sequences, are added up in fp32 or higher."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.n = states.shape[0]
        return states.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,), (gradient,) = ctx.saved_tensors, gradients
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        total = gradient.new_zeros(ctx.n, *gradient.shape[1:], dtype=dtype)
        return total.index_add(0, index, gradient.to(dtype)).to(gradient.dtype), None


@dataclass(frozen=True)
class Scores:
    """How a layer turns scores into attention weights.

    Attributes:
        scaling: Multiplies the scores; None divides them by the square root of the width.
        window: Number of positions that a token attends to, its own included; None for all.
        softcap: Bounds the scores smoothly; None for no bound.
        dropout: Dropout rate of the weights.
    """

    scaling: float | None
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


@torch.compiler.disable  # a layout is a Python object that differs between packs: compiled layers call this eagerly
def _by_segment(query: Tensor, key: Tensor, value: Tensor, scores: Scores, layout: PackLayout) -> Tensor:
    """Return the attention output `[1, T, heads, width]`, sequence by sequence."""
    parts = _segments(query, key, value, scores, layout)
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1)  # SDPA lays its output out token by token


def _segments(query: Tensor, key: Tensor, value: Tensor, scores: Scores, layout: PackLayout) -> Iterator[Tensor]:
    """Yield the output of every segment, in one or several blocks of queries."""
    parts = zip(*(tensor.split(layout.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    for group in layout.groups:
        q, prompt_k, prompt_v = next(parts)
        yield from _sequence(q, prompt_k, prompt_v, scores, layout)
        for _ in group[1:]:
            q, k, v = next(parts)
            k, v = torch.cat([prompt_k, k], dim=2), torch.cat([prompt_v, v], dim=2)
            yield from _sequence(q, k, v, scores, layout)


def _sequence(q: Tensor, k: Tensor, v: Tensor, scores: Scores, layout: PackLayout) -> Iterator[Tensor]:
    """Attend causally; the queries are at the last positions of the keys."""
    end, window = k.shape[2], scores.window
    if q.shape[2] == end and scores.softcap is None and (window is None or window >= end):
        yield _sdpa_call(q, k, v, scores, is_causal=True)
        return
    start = end - q.shape[2]
    for block in q.split(QUERY_BLOCK, dim=2):  # masked scores are computed only within a block
        first = 0 if window is None else max(0, start - window + 1)
        start += block.shape[2]
        keys, values = k[:, :, first:start], v[:, :, first:start]
        attn_mask = _block_mask(block, keys, window, layout)
        if scores.softcap is None:
            yield _sdpa_call(block, keys, values, scores, attn_mask=attn_mask)
        else:  # checkpointed, so that memory stays linear in the tokens
            yield checkpoint(_soft_capped, block, keys, values, attn_mask, scores, use_reentrant=False)


def _block_mask(q: Tensor, k: Tensor, window: int | None, layout: PackLayout) -> Tensor:
    """Return what is added to the scores `[queries, keys]`: 0 where they are visible."""
    rows, columns = q.shape[2], k.shape[2]

    def mask() -> Tensor:
        behind = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)[None]
        hidden = (behind < 0) | (behind >= (window or columns))
        return torch.zeros(rows, columns, dtype=q.dtype).masked_fill(hidden, -torch.inf).to(q.device)

    attn_mask: Tensor = layout.cached((rows, columns, window, q.dtype, q.device), mask)
    return attn_mask


def _sdpa_call(q: Tensor, k: Tensor, v: Tensor, scores: Scores, **mask: Any) -> Tensor:
    on_cuda = q.device.type == "cuda"
    if on_cuda:  # its memory-efficient kernel knows no grouped queries
        k, v = (repeat_kv(x, q.shape[1] // x.shape[1]) for x in (k, v))
    return F.scaled_dot_product_attention(
        q, k, v, dropout_p=scores.dropout, scale=scores.scaling, enable_gqa=not on_cuda, **mask
    )


def _soft_capped(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, scores: Scores) -> Tensor:
    assert scores.softcap is not None
    k, v = (repeat_kv(x, q.shape[1] // x.shape[1]) for x in (k, v))
    scaled = q @ k.transpose(2, 3) * (scores.scaling or q.shape[3] ** -0.5)
    weights = (torch.tanh(scaled / scores.softcap) * scores.softcap + attn_mask).softmax(
        3, dtype=torch.promote_types(q.dtype, torch.float32)
    )
    return F.dropout(weights.to(v.dtype), scores.dropout) @ v


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
