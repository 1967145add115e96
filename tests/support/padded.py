"""The slow and plain way to compute what packed groups compute: one row per response, without packing. The oracle."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rao_kedro.models.logprobs import SequenceLogProbs
from rao_kedro.models.packing import TokenizedGroup


def padded_logps(model: nn.Module, groups: Sequence[TokenizedGroup], t0_length: int = 1) -> SequenceLogProbs:
    """Return what `LogProbModel` returns, from padded rows and full logits."""
    k = max(len(group.response_ids) for group in groups)
    responses, prompts = [], []
    for group in groups:
        rows = [[*group.prompt_ids, *response] for response in group.response_ids]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)
        attention_mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        logits = model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        token_logps = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        n_prompt = len(group.prompt_ids)
        sums = [token_logps[i, n_prompt - 1 : len(row) - 1].sum() for i, row in enumerate(rows)]
        responses.append(torch.stack(sums + [sums[0] * 0] * (k - len(sums))))
        prompts.append(token_logps[0, t0_length - 1 : n_prompt - 1].sum())
    return SequenceLogProbs(torch.stack(responses), torch.stack(prompts))


def padded_rewards(model: nn.Module, group: TokenizedGroup) -> Tensor:
    """Return `[K]` rewards of a group, from one unpadded row per response."""
    rows: Sequence[list[int]] = [[*group.prompt_ids, *response] for response in group.response_ids]
    return torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])
