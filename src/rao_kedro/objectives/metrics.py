"""Metrics of a batch, the same for every objective: likelihoods that rise or fall, and targets against log-ratios.

A metric is a mean over a group's responses, then over groups, so the metrics of several batches can be averaged.
`derive_metrics` computes from the averaged moments what is not a mean: correlations and the root mean square error.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from rao_kedro.objectives.base import LogProbBatch


def pair_metrics(batch: LogProbBatch, implicit_rewards: Tensor) -> dict[str, Tensor]:
    """Return implicit rewards and log-probs of the chosen and the rejected responses.

    Args:
        batch: G groups. With `reference` the log-ratios are measured, with `rewards` their correlation too.
        implicit_rewards: `[G, 2]` or wider, the objective's own; `beta h` for most.
    """
    with torch.no_grad():
        chosen, rejected = implicit_rewards[:, 0], implicit_rewards[:, 1]
        metrics = {
            "rewards_chosen": chosen.mean(),
            "rewards_rejected": rejected.mean(),
            "margin": (chosen - rejected).mean(),
            "accuracy": (chosen > rejected).float().mean(),
            "logps_chosen": batch.policy[:, 0].mean(),
            "logps_rejected": batch.policy[:, 1].mean(),
        }
        if batch.reference is not None:
            h = batch.log_ratio()
            metrics |= {
                "log_ratio_chosen": h[:, 0].mean(),
                "log_ratio_rejected": h[:, 1].mean(),
                "chosen_likelihood_fell": (h[:, 0] < 0).float().mean(),
                "rejected_likelihood_fell": (h[:, 1] < 0).float().mean(),
            }
            if batch.rewards is not None:
                metrics |= _moments(batch, "reward", batch.rewards, h)
        return {name: value.detach() for name, value in derive_metrics(metrics).items()}


def target_metrics(batch: LogProbBatch, target: Tensor, log_z: Tensor) -> dict[str, Tensor]:
    """Return how closely log-ratios reach their targets, and whether the targets are feasible.

    Args:
        batch: G groups; needs `reference`.
        target: `[G, K]` targets of the log-ratios in nats, `r/beta - log Z_i` for RAO.
        log_z: `[G]` the baseline in nats, `log Z_i` for RAO.

    Returns:
        Among others: `chosen_target_is_up` is P(r_w > beta log Z_i). `log_target_mass` is the log of the probability
        that the targets give a group's responses together, `sum_j pi_ref(y_j|x) exp(r_j/beta) / Z_i`, in nats.
        `infeasible` is the share of groups where that probability is above 1.
    """
    with torch.no_grad():
        (reference,) = batch.require("reference")
        h = batch.log_ratio()
        metrics = _moments(batch, "target", target, h)
        mass = (reference + target).masked_fill(~batch.mask, -torch.inf).logsumexp(1)
        metrics |= {
            "log_z": log_z.mean(),
            "chosen_target_is_up": (target[:, 0] > 0).float().mean(),
            "log_target_mass": mass.mean(),
            "infeasible": (mass > 0).float().mean(),
        }
        return {name: value.detach() for name, value in derive_metrics(metrics).items()}


def derive_metrics(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `metrics` and what follows from the moments among them.

    `reward_correlation` and `target_correlation` are correlations with the log-ratio. `target_rmse` is the root mean
    square of target minus log-ratio, in nats. Every group has the same weight.

    Args:
        metrics: Those of one batch, or means of those of several batches.
    """
    result = dict(metrics)
    for x in ("reward", "target"):
        if f"{x}_times_log_ratio" not in metrics:
            continue
        mean, square, cross = (metrics[f"{x}_{moment}"] for moment in ("mean", "square", "times_log_ratio"))
        h, h_square = metrics["log_ratio_mean"], metrics["log_ratio_square"]
        spread = ((square - mean**2).clamp(min=0) * (h_square - h**2).clamp(min=0)).sqrt()
        result[f"{x}_correlation"] = ((cross - mean * h) / spread).nan_to_num(0.0, 0.0, 0.0)
        if x == "target":
            result["target_rmse"] = (square - 2 * cross + h_square).clamp(min=0).sqrt()
    return result


def _moments(batch: LogProbBatch, name: str, values: Tensor, h: Tensor) -> dict[str, Tensor]:
    def mean(x: Tensor) -> Tensor:
        return (x.masked_fill(~batch.mask, 0.0).sum(1) / batch.mask.sum(1)).mean()

    return {
        f"{name}_mean": mean(values),
        f"{name}_square": mean(values.square()),
        f"{name}_times_log_ratio": mean(values * h),
        "log_ratio_mean": mean(h),
        "log_ratio_square": mean(h.square()),
    }
