"""Reward models: a scalar per response, from packed groups.

The model inside is a plain `AutoModelForSequenceClassification` with one label, so its checkpoint opens anywhere.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rao_kedro.errors import ModelError
from rao_kedro.models.packing import Pack, compute_hidden_states, why_not_packed
from rao_kedro.models.rotary import refuse_long_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ReadAt = Literal["template_end", "end_of_turn"]
READ_AT = "rao_kedro_read_at"  # key in the configuration of a reward model that this project trained


def find_read_at(model_dir: Path) -> ReadAt:
    """Return the token at which a reward model's score is read: that of its configuration, or the template's last one.

    Model cards and RewardBench read the score of `apply_chat_template(dialogue)` at the template's last token. A model
    that was trained by this project is read at the end-of-turn token, and its configuration says so.

    Raises:
        ModelError: The configuration names another token.
    """
    path = model_dir / "config.json"
    read_at: ReadAt = json.loads(path.read_text()).get(READ_AT, "template_end") if path.is_file() else "template_end"
    if read_at not in get_args(ReadAt):
        raise ModelError(f"{path}: {READ_AT} is {read_at!r}; it must be one of {', '.join(get_args(ReadAt))}")
    return read_at


def reward_module(classifier: "PreTrainedModel") -> "RewardModel | PaddedRewards":
    """Return a module that computes rewards of packed groups with a sequence classifier of one label.

    A decoder with a linear head `score` computes each prompt once for all its responses. A bidirectional encoder, a
    model with another head, or one whose layers cannot be packed gets every response as a padded row, and pools it
    itself.
    """
    if isinstance(getattr(classifier, "score", None), nn.Linear):
        packed = RewardModel(classifier)
        if why_not_packed(classifier, packed, lambda rows: classifier(input_ids=rows).logits) is None:
            return packed
    return PaddedRewards(classifier)


class RewardModel(nn.Module):
    """A decoder with a `score` head, read at the last token of each response."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Wrap `model`, a sequence classifier of transformers with one label."""
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, batch: Pack) -> Tensor:
        """Return `[G, K]` rewards, 0 where masked. The head computes in fp32, whatever the precision of the body."""
        hidden = compute_hidden_states(self.model, batch)
        rewards = scores(self.model, hidden[batch.response_end.flatten()])
        return rewards.view(batch.mask.shape).masked_fill(~batch.mask, 0.0)


class PaddedRewards(nn.Module):
    """Any sequence classifier. Each row is a prompt and one response, padded to the longest row."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Wrap `model`."""
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, batch: Pack) -> Tensor:
        """Return `[G, K]` rewards in fp32, 0 where masked.

        Raises:
            ModelError: A row is longer than the model's rotary embedding allows.
        """
        refuse_long_rows(self.model, batch.layout.longest_row, "a prompt and a response")
        rows = _rows(batch)
        padding = self.model.config.get_text_config().pad_token_id
        logits = torch.cat([self._logits([row], 0) for row in rows]) if padding is None else self._logits(rows, padding)
        return logits.new_zeros(batch.mask.shape, dtype=torch.float32).masked_scatter(batch.mask, logits.float())

    def _logits(self, rows: list[Tensor], padding: int) -> Tensor:
        lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
        ids = pad_sequence(rows, batch_first=True, padding_value=padding)
        attention_mask = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
        logits: Tensor = self.model(input_ids=ids, attention_mask=attention_mask.long()).logits
        return logits


def _rows(batch: Pack) -> list[Tensor]:
    """Return the ids `[tokens]` of each prompt and response, group by group."""
    rows, start = [], 0
    for n_prompt, *lengths in batch.layout.groups:
        prompt, *responses = batch.input_ids[0, start : start + n_prompt + sum(lengths)].split([n_prompt, *lengths])
        rows += [torch.cat([prompt, response]) for response in responses]
        start += n_prompt + sum(lengths)
    return rows


def scores(classifier: nn.Module, hidden: Tensor) -> Tensor:
    """Return the scores `[N]` of hidden states `[N, hidden]`, in fp32 (float64 where the head is)."""
    head = classifier.get_submodule("score")
    assert isinstance(head.weight, Tensor)
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    bias = head.bias.to(dtype) if isinstance(head.bias, Tensor) else None
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.to(dtype), head.weight.to(dtype), bias)[:, 0]


def padding_token_id(tokenizer: "PreTrainedTokenizerBase", end_of_turn_ids: Sequence[int]) -> int:
    """Return a padding token that does not end responses.

    transformers reads a sequence classifier's score at the last token that is not padding. If responses ended with the
    padding token, it would read one token too early.

    Raises:
        ModelError: The tokenizer's pad, unk and bos tokens all end responses.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token_id is not None and token_id not in end_of_turn_ids:
            return int(token_id)
    raise ModelError(
        "the tokenizer's pad, unk and bos tokens are missing or end responses: set tokenizer.pad_token to a token that "
        "ends no response"
    )
