"""Odds Ratio Preference Optimization (Hong et al. 2024, eq. 6): an SFT and a preference term, no reference."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch, require_finite
from rao_kedro.objectives.pairwise import PairwiseObjective


@dataclass(frozen=True)
class ORPO(PairwiseObjective):
    """`L = NLL(y_w) - lambda log sigmoid(log odds_w - log odds_l)`.

    `odds = P / (1 - P)` with `P = exp(avg log pi)`. NLL is the mean over the response's tokens.

    Attributes:
        lambda_: Weight of the odds ratio term.
    """

    lambda_: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            ValueError: A parameter is out of its range.
        """
        super().__post_init__()
        require_finite("lambda", self.lambda_, at_least=0)

    def pair_losses(self, batch: LogProbBatch) -> Tensor:
        """Return the loss of each group, `[G]`; needs `lengths`."""
        log_odds = _log_odds(batch.mean_token_logps()[:, :2])
        return -batch.mean_token_logps()[:, 0] - self.lambda_ * F.logsigmoid(log_odds[:, 0] - log_odds[:, 1])

    def implicit_rewards(self, batch: LogProbBatch) -> Tensor:
        """Return `lambda avg log pi(y_ij|x_i)`, `[G, K]`."""
        return self.lambda_ * batch.mean_token_logps()


def _log_odds(logps: Tensor) -> Tensor:
    """Return `log(p / (1 - p))`, stable for p near 0 and near 1 (Maechler 2012)."""
    logps = logps.clamp(max=-torch.finfo(logps.dtype).tiny)
    log_complement = torch.where(
        logps > -0.6931472,
        torch.log(-torch.expm1(logps)),
        torch.log1p(-torch.exp(logps.clamp(max=-0.6931472))),
    )
    return logps - log_complement
