"""A scalar reward per response, read at its last token, from packed groups.

The module inside is a plain `AutoModelForSequenceClassification` with one label, so what is saved opens anywhere.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rao_kedro.errors import ModelError
from rao_kedro.models.packing import PackedGroups, TokenizedGroup, packed_hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PackedRewards(nn.Module):
    """A sequence classifier whose forward pass returns the rewards of packed groups."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap `model`, a sequence classifier of transformers with one label."""
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, batch: PackedGroups) -> Tensor:
        """Return `[G, K]` rewards, 0 where masked. The head computes in fp32 whatever the body does."""
        hidden = packed_hidden_states(self.model, batch)
        rewards = scores(self.model, hidden[batch.response_end.flatten()])
        return rewards.view(batch.mask.shape).masked_fill(~batch.mask, 0.0)


def scores(classifier: nn.Module, hidden: Tensor) -> Tensor:
    """Return the scores of `[N, hidden]` states, `[N]` in fp32 whatever the head has (float64 if that)."""
    head = classifier.get_submodule("score")
    assert isinstance(head.weight, Tensor)
    dtype = torch.promote_types(head.weight.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        return (hidden.to(dtype) @ head.weight.to(dtype).T)[:, 0]


def pad_token_id_unlike_eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return a padding token that no response ends with.

    Plain transformers reads a sequence classifier's score at the last token that is not padding, so with
    `pad_token == eos_token` it would read it one token too early.

    Raises:
        ModelError: Every special token of the tokenizer is its end-of-turn token.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token_id is not None and token_id != tokenizer.eos_token_id:
            return int(token_id)
    raise ModelError("the tokenizer has no pad, unk or bos token besides its eos token: set tokenizer.pad_token")


def padded_rewards(model: nn.Module, group: TokenizedGroup) -> Tensor:
    """Return `[K]` rewards the slow and plain way: one unpadded row per response. The oracle of the tests."""
    rows: Sequence[list[int]] = [[*group.prompt_ids, *response] for response in group.response_ids]
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])
