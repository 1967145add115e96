"""Reward-ranked fine-tuning, RAFT (Dong et al. 2023, arXiv 2304.06767): SFT on the best of n responses."""

from dataclasses import dataclass

import torch

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput
from rao_kedro.objectives.metrics import pair_metrics


@dataclass(frozen=True)
class RAFT(Objective):
    """`L = -1/|y_b| log pi(y_b|x)` with `b = argmax_j r_j`: best-of-n distillation, or rejection-sampling fine-tuning.

    The negative log-likelihood is the mean over the response's tokens, as in SFT, then over groups: every prompt counts
    the same, however long its best response is. Of equal rewards the first column wins, so the chosen response before
    all others. Only the order of the rewards matters.
    """

    def __call__(self, batch: LogProbBatch) -> ObjectiveOutput:
        """Return the mean loss and the metrics of a batch; needs `rewards` and `lengths`.

        `best_is_chosen` is the share of groups whose best reward is that of the chosen response.
        """
        (rewards,) = batch.require("rewards")
        best = rewards.masked_fill(~batch.mask, -torch.inf).argmax(1)
        mean_logps = batch.mean_token_logps()
        loss = -mean_logps.gather(1, best[:, None]).mean()
        metrics = pair_metrics(batch, mean_logps) | {"best_is_chosen": (best == 0).float().mean()}
        return ObjectiveOutput(loss, metrics)
