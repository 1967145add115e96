"""Packs prompt groups as `[prompt | y_1 | ... | y_K]`, so that each prompt is computed once.

The positions of every response start after those of its prompt, and a response attends to its prompt and itself. The
result is that of ordinary rows of prompt and response. Knows token ids only, no tokenizer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from rao_kedro.errors import ModelError
from rao_kedro.models.attention import PACKED, PackLayout, has_varlen_kernel
from rao_kedro.models.rotary import refuse_long_rows

TokenIds = Sequence[int] | NDArray[np.int32]
Learned = Sequence[bool] | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenizedGroup:
    """A prompt and its responses as token ids: lists, or views of a mapped table.

    Attributes:
        group_id: Identifies the group across tables.
        prompt_ids: The prompt, generation header included.
        response_ids: Per response its tokens; a finished one ends with its end-of-turn token.
        rewards: Per response its explicit reward, if it was read.
        ratings: Per response its rating in the data, if it was read.
        first_response: Of a piece of a group that is longer than a pack: which response of the group is its first.
        learned: Per response, which of its tokens have a log-prob: True for those that the assistant wrote, at least
            one. The others, a user's turns in between, are only read. None: all have one.
    """

    group_id: str
    prompt_ids: TokenIds
    response_ids: Sequence[TokenIds]
    rewards: Sequence[float] | None = None
    ratings: Sequence[float] | None = None
    first_response: int = 0
    learned: Sequence[Learned] | None = None

    def with_responses(
        self, response_ids: Sequence[TokenIds], learned: Sequence[Learned] | None = None
    ) -> "TokenizedGroup":
        """Return the prompt with other responses, which have neither rewards nor ratings."""
        return TokenizedGroup(self.group_id, self.prompt_ids, response_ids, learned=learned)

    def response(self, number: int) -> "TokenizedGroup":
        """Return the prompt with one of its responses, which has neither reward nor rating."""
        learned = None if self.learned is None else [self.learned[number]]
        return self.with_responses([self.response_ids[number]], learned)

    def split(self, max_tokens: int) -> list["TokenizedGroup"]:
        """Return pieces of at most `max_tokens` tokens: the prompt with some of the responses, in their order.

        A piece has neither rewards nor ratings. A single response that is too long is a piece of its own.
        """
        ends, size = [0], len(self.prompt_ids)
        for i, ids in enumerate(self.response_ids):
            if i > ends[-1] and size + len(ids) > max_tokens:
                ends.append(i)
                size = len(self.prompt_ids)
            size += len(ids)
        ranges = zip(ends, [*ends[1:], len(self.response_ids)], strict=True)
        return [
            TokenizedGroup(
                self.group_id,
                self.prompt_ids,
                self.response_ids[a:b],
                first_response=a,
                learned=None if self.learned is None else self.learned[a:b],
            )
            for a, b in ranges
        ]

    @property
    def response_lengths(self) -> list[int]:
        """Tokens of each response that have a log-prob."""
        if self.learned is None:
            return [len(ids) for ids in self.response_ids]
        return [int(np.count_nonzero(learned)) for learned in self.learned]

    @property
    def n_tokens(self) -> int:
        """Tokens of the packed group, in which the prompt occurs once."""
        return len(self.prompt_ids) + sum(map(len, self.response_ids))

    @property
    def n_row_tokens(self) -> int:
        """Tokens of the responses as separate rows, each preceded by the prompt."""
        return sum(len(self.prompt_ids) + len(ids) for ids in self.response_ids)


@dataclass(frozen=True)
class Pack:
    """G groups in one row of T tokens, and where their log-probs are read.

    The log-prob of a target token is read from the hidden state at its `source` position. Its `segment` is the response
    (`group * K + column`) or the prompt (`group`) to which it belongs.

    Attributes:
        input_ids: `[1, T]`.
        position_ids: `[1, T]`; those of every response start after those of its prompt.
        layout: The places of prompts and responses in the row.
        response_source: `[R]` positions whose hidden states predict the response tokens that have a log-prob.
        response_target: `[R]` token ids.
        response_segment: `[R]` in `[0, G * K)`.
        prompt_source: `[P]` positions whose hidden states predict the prompt tokens after t_0.
        prompt_target: `[P]` token ids.
        prompt_segment: `[P]` in `[0, G)`.
        response_end: `[G, K]` position of a response's last token (0 where masked).
        lengths: `[G, K]` response tokens that have a log-prob (0 where masked).
        mask: `[G, K]` True where a response exists.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: PackLayout
    response_source: Tensor
    response_target: Tensor
    response_segment: Tensor
    prompt_source: Tensor
    prompt_target: Tensor
    prompt_segment: Tensor
    response_end: Tensor
    lengths: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> "Pack":
        """Return a copy on `device`."""
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in moved.items():
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
        return Pack(**moved)


def pack_groups(groups: Sequence[TokenizedGroup], t0_length: int = 1) -> Pack:
    """Pack groups into one row.

    Args:
        groups: G groups; K is the largest number of responses among them.
        t0_length: Tokens of the prefix t_0 that every prompt shares; its own log-prob is not computed.

    Raises:
        ValueError: A group has an empty response, or a prompt no longer than t_0.
    """
    k = max(len(group.response_ids) for group in groups)
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    responses: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # per response: sources, targets, segments
    prompts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    lengths = response_lengths(groups)
    ends = torch.zeros_like(lengths)
    end = 0
    for g, group in enumerate(groups):
        start, n_prompt, prompt = end, len(group.prompt_ids), np.asarray(group.prompt_ids, dtype=np.int64)
        if n_prompt <= t0_length:
            raise ValueError(
                f"group {group.group_id}: the prompt has {n_prompt} tokens, no more than t_0 ({t0_length})"
            )
        end += n_prompt
        ids.append(prompt)
        positions.append(np.arange(n_prompt))
        prompts.append((np.arange(start + t0_length, end) - 1, prompt[t0_length:], np.full(n_prompt - t0_length, g)))
        for j, response_ids in enumerate(group.response_ids):
            begin, n, response = end, len(response_ids), np.asarray(response_ids, dtype=np.int64)
            if not n:
                raise ValueError(f"group {group.group_id}: response {j} is empty")
            end += n
            ids.append(response)
            positions.append(np.arange(n_prompt, n_prompt + n))
            sources = np.arange(begin, end) - 1
            sources[0] = start + n_prompt - 1
            columns = sources, response, np.full(n, g * k + j)
            if group.learned is not None:
                learned = np.asarray(group.learned[j], dtype=bool)
                columns = sources[learned], response[learned], columns[2][learned]
            responses.append(columns)
            ends[g, j] = end - 1
    response_columns, prompt_columns = (
        [torch.from_numpy(np.concatenate(of)) for of in zip(*columns, strict=True)] for columns in (responses, prompts)
    )
    return Pack(
        input_ids=torch.from_numpy(np.concatenate(ids))[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        layout=PackLayout(tuple((len(g.prompt_ids), *map(len, g.response_ids)) for g in groups)),
        response_source=response_columns[0],
        response_target=response_columns[1],
        response_segment=response_columns[2],
        prompt_source=prompt_columns[0],
        prompt_target=prompt_columns[1],
        prompt_segment=prompt_columns[2],
        response_end=ends,
        lengths=lengths,
        mask=lengths > 0,
    )


def response_lengths(groups: Sequence[TokenizedGroup]) -> Tensor:
    """Return `[G, K]` response tokens that have a log-prob, 0 where a group has fewer than K responses."""
    rows = [torch.tensor(group.response_lengths) for group in groups]
    return pad_sequence(rows, batch_first=True)


def compute_hidden_states(model: PreTrainedModel, batch: Pack) -> Tensor:
    """Return the last hidden states of a packed batch, `[T, hidden]`.

    Args:
        model: A transformers model, whose backbone is used. If its attention is not `PACKED`, it gets a dense mask.
        batch: T packed tokens.

    Raises:
        ModelError: Some layers of the model mix tokens in a way that no attention mask restricts, or a row is longer
            than the model's rotary embedding allows.
    """
    if reason := layers_that_do_not_pack(model):
        raise ModelError(f"{type(model).__name__} cannot be computed on packed groups: {reason}")
    refuse_long_rows(model, batch.layout.longest_row, "a prompt and a response")
    packed = model.config._attn_implementation == PACKED
    attention: dict[str, Any] = {}
    if packed:
        device = batch.input_ids.device
        sequences = batch.layout.sequences(device) if has_varlen_kernel(device) else None
        attention = {"packed_layout": batch.layout, "packed_sequences": sequences}
    output = model.base_model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=_no_mask(batch) if packed else batch.layout.dense_mask(batch.input_ids.device)[None, None],
        use_cache=False,
        **attention,
    )
    return output.last_hidden_state[0]


def _no_mask(batch: Pack) -> Tensor:
    """Return an empty mask of four dimensions, which transformers passes on instead of making a mask."""
    return torch.empty(1, 1, 0, 0, dtype=torch.bool, device=batch.input_ids.device)


PACKABLE_LAYERS = {"full_attention", "sliding_attention"}


def layers_that_do_not_pack(model: PreTrainedModel) -> str | None:
    """Return why the configuration lets a response see more than its prompt and itself; None if it does not."""
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or []) - PACKABLE_LAYERS
    if others or model._is_stateful:
        return (
            "it has layers other than full or sliding-window attention "
            f"({', '.join(sorted(others)) or 'it keeps a state along the sequence'})"
        )
    if model.config._attn_implementation != PACKED and getattr(config, "sliding_window", None):
        return "it has sliding windows, but not transformers' attention interface"
    return None


# Relative to the norm; a model that cannot be packed differs by much more. Rounding to bf16 in 30 layers makes 0.026.
TOLERANCE = {torch.float64: 0.03, torch.float32: 0.03, torch.bfloat16: 0.15, torch.float16: 0.15}
_reasons: WeakKeyDictionary[nn.Module, str | None] = WeakKeyDictionary()


def why_not_packed(
    model: PreTrainedModel, packed: Callable[[Pack], Tensor], alone: Callable[[Tensor], Tensor]
) -> str | None:
    """Return why a model's results on packed groups differ from those on single rows; None if they agree.

    Two short rows are computed both ways, once per model. The configuration alone does not suffice: it has no common
    field for ALiBi, other masks, bidirectional attention, or layers after the last hidden state.

    Args:
        model: A transformers model that is not wrapped for training yet.
        packed: Returns the result for a packed group.
        alone: Returns the same result for `[rows, tokens]` ids of prompts and responses of three tokens each.
    """
    if model not in _reasons:
        reason = layers_that_do_not_pack(model)
        # With sharded loading or ZeRO-3, the weights are not on this process yet.
        elsewhere = any(parameter.is_meta or hasattr(parameter, "ds_id") for parameter in model.parameters())
        _reasons[model] = reason if reason or elsewhere else _difference(model, packed, alone)
    return _reasons[model]


@torch.no_grad()
def _difference(
    model: PreTrainedModel, packed: Callable[[Pack], Tensor], alone: Callable[[Tensor], Tensor]
) -> str | None:
    padding = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids = [token for token in range(3, 13) if token != padding][:9]
    group = TokenizedGroup("probe", ids[:3], [ids[3:6], ids[6:9]])
    device = next(model.parameters()).device
    rows = torch.tensor([[*group.prompt_ids, *response] for response in group.response_ids], device=device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        hidden = model.base_model(input_ids=rows, use_cache=False).last_hidden_state[:, 3:].flatten(0, 1)
        batch = pack_groups([group]).to(device)
        pairs = [(compute_hidden_states(model, batch)[3:], hidden), (packed(batch).flatten(), alone(rows).flatten())]
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        return f"its code fails on them ({type(error).__name__}: {error})"
    except ModelError as error:
        return str(error)
    finally:
        for module, mode in modes.items():
            module.training = mode
    tolerance = TOLERANCE[model.dtype]
    differ = any((ours - theirs).norm() > tolerance * theirs.norm() for ours, theirs in pairs)
    return "its result for a response depends on the other responses of the pack" if differ else None


def refuse_long_groups(module: nn.Module, groups: Iterable[TokenizedGroup]) -> None:
    """Refuse groups with a prompt and a response that are too long together; see `refuse_long_rows`.

    Args:
        module: The module that will compute them; it contains transformers models.
        groups: All groups that it will compute.

    Raises:
        ModelError: A group is too long; the message names it.
    """
    longest = max(groups, key=longest_row, default=None)
    if longest is None:
        return
    what = f"the longest row of group {longest.group_id}, a prompt and a response,"
    for model in module.modules():
        if isinstance(model, PreTrainedModel):
            refuse_long_rows(model, longest_row(longest), what)


def longest_row(group: TokenizedGroup) -> int:
    """Return the tokens of a group's prompt and its longest response."""
    return len(group.prompt_ids) + max(map(len, group.response_ids), default=0)
