"""Attention over packed prompt groups: a prompt attends to itself once, each response to the prompt and itself.

It is registered in transformers' attention interface, so that the decoders of transformers can use it. Without a
layout, as in text generation, it is transformers' SDPA. Knows segment lengths only. Tests compare it with the dense
mask.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rao_kedro.errors import ModelError

PACKED = "packed_groups"
QUERY_BLOCK = 256  # response tokens per SDPA call; a call also computes the scores that its mask hides


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

    def dense_mask(self, device: torch.device | None = None, window: int | None = None) -> Tensor:
        """Return `[T, T]` booleans: True where the token of the row attends to the token of the column."""
        token = torch.arange(sum(self.lengths), device=device)
        return _sees(*self.coordinates(device), window)(token[:, None], token[None, :])

    def coordinates(self, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return per token its group, its branch (0: the prompt, then the responses) and its position, `[T]` each."""
        columns: tuple[list[int], list[int], list[int]] = ([], [], [])
        for g, (n_prompt, *responses) in enumerate(self.groups):
            for b, n in enumerate([n_prompt, *responses]):
                start = n_prompt if b else 0
                for column, values in zip(columns, ([g] * n, [b] * n, range(start, start + n)), strict=True):
                    column.extend(values)
        group, branch, position = (torch.tensor(column, device=device) for column in columns)
        return group, branch, position


@torch.compiler.disable  # a layout is a Python object that differs between packs: compiled layers call this eagerly
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_layout: PackLayout | None = None,
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
        **kwargs: `sliding_window`, `softcap` (scores become `softcap * tanh(scores / softcap)`), and, without a layout,
            the arguments of transformers' SDPA.

    Raises:
        ModelError: The layer has attention sinks, or dropout on CUDA.
    """
    if packed_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("s_aux") is not None:
        raise ModelError(f"{type(module).__name__} has attention sinks, which packed groups do not support")
    scores = Scores(scaling, kwargs.get("sliding_window"), kwargs.get("softcap"), dropout)
    if query.device.type == "cuda":
        if dropout:
            raise ModelError(
                f"{type(module).__name__} has attention dropout, which packed groups do not support on CUDA: set it to "
                "0"
            )
        output = _flex(query, key, value, scores, packed_layout)
    else:
        output = torch.cat(list(_by_segment(query, key, value, scores, packed_layout)), dim=2)
    return output.transpose(1, 2), None


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


def _by_segment(query: Tensor, key: Tensor, value: Tensor, scores: Scores, layout: PackLayout) -> Iterator[Tensor]:
    """Yield the output of every segment. Masked scores are computed only within a causal block."""
    parts = zip(*(tensor.split(layout.lengths, dim=2) for tensor in (query, key, value)), strict=True)
    for group in layout.groups:
        q, prompt_k, prompt_v = next(parts)
        yield _causal(q, prompt_k, prompt_v, scores, layout)
        for _ in group[1:]:
            q, k, v = next(parts)
            k, v = torch.cat([prompt_k, k], dim=2), torch.cat([prompt_v, v], dim=2)
            end = prompt_k.shape[2]
            for block in q.split(QUERY_BLOCK, dim=2):
                end += block.shape[2]
                yield _causal(block, k[:, :, :end], v[:, :, :end], scores, layout)


def _causal(q: Tensor, k: Tensor, v: Tensor, scores: Scores, layout: PackLayout) -> Tensor:
    """Attend causally; the queries are at the last positions of the keys."""
    rows, columns, window = q.shape[2], k.shape[2], scores.window
    sdpa = partial(F.scaled_dot_product_attention, dropout_p=scores.dropout, scale=scores.scaling, enable_gqa=True)
    if rows == columns and (window is None or window >= rows) and scores.softcap is None:
        return sdpa(q, k, v, is_causal=True)

    def mask() -> Tensor:
        behind = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)[None]
        hidden = (behind < 0) | (behind >= (window or columns))
        return torch.zeros(rows, columns, dtype=q.dtype).masked_fill(hidden, -torch.inf).to(q.device)

    attn_mask = layout.cached((rows, columns, window, q.dtype, q.device), mask)
    if scores.softcap is None:
        return sdpa(q, k, v, attn_mask=attn_mask)
    k, v = (repeat_kv(x, q.shape[1] // x.shape[1]) for x in (k, v))
    scaled = q @ k.transpose(2, 3) * (scores.scaling or q.shape[3] ** -0.5)
    weights = (torch.tanh(scaled / scores.softcap) * scores.softcap + attn_mask).softmax(
        3, dtype=torch.promote_types(q.dtype, torch.float32)
    )
    return F.dropout(weights.to(v.dtype), scores.dropout) @ v


def _flex(query: Tensor, key: Tensor, value: Tensor, scores: Scores, layout: PackLayout) -> Tensor:
    """Attend with FlexAttention, which skips fully masked blocks. Compiled once for all layouts."""
    from torch.nn.attention.flex_attention import create_block_mask

    n = query.shape[2]

    def block_mask() -> Any:
        sees = _sees(*layout.coordinates(query.device), scores.window)
        return create_block_mask(lambda b, h, q, k: sees(q, k), None, None, n, n, device=query.device)

    output: Tensor = _compiled_flex()(
        query,
        key,
        value,
        score_mod=_softcap_function(scores.softcap) if scores.softcap else None,
        block_mask=layout.cached(("flex", scores.window, query.device), block_mask),
        scale=scores.scaling,
        enable_gqa=True,
    )
    return output


def _softcap_function(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the function of FlexAttention that bounds a score by `softcap`."""

    def bounded(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return bounded


def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    global _flex_attention
    if _flex_attention is None:
        _flex_attention = torch.compile(flex_attention, dynamic=True)
    return _flex_attention


_flex_attention: Callable[..., Tensor] | None = None


def _sees(group: Tensor, branch: Tensor, position: Tensor, window: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of two token indices: whether the first token attends to the second."""

    def sees(q: Tensor, k: Tensor) -> Tensor:
        behind = position[q] - position[k]
        visible = (q >= k) & (group[q] == group[k]) & ((branch[k] == 0) | (branch[q] == branch[k]))
        return visible if window is None else visible & (behind < window)

    return sees


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
