"""What a user should know of an evaluation, in sentences. Knows numbers; no model."""

from collections.abc import Mapping, Sequence

from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.objectives.log_z0 import largest_raising_log_z0


def likelihood_remark(
    method: str, metrics: Mapping[str, float], groups: Sequence[TokenizedGroup], beta: float | None
) -> str | None:
    """Return a sentence if most held-out chosen responses became less likely, with what raises them under RAO.

    Args:
        method: Its name.
        metrics: Those of an evaluation.
        groups: Training groups with rewards.
        beta: The method's own reward units per nat; None where it has none.
    """
    log_ratio, fell = metrics["log_ratio_chosen"], metrics["chosen_likelihood_fell"]
    if log_ratio >= 0 or fell <= 0.5:
        return None
    bound = largest_raising_log_z0([group.rewards[0] for group in groups if group.rewards is not None], beta or 1.0)
    if "log_z" in metrics and metrics["log_z"] <= bound:
        advice = "Their mean target is above 0 in training: a larger margin raises it further."
    else:
        rao, limit = (f"RAO with beta {beta:g}", f"{bound:.2f}") if beta else ("RAO", f"{bound:.2f} / beta")
        advice = f"{rao} raises the mean target of the chosen responses above 0 for log_z0 <= {limit} nats."
    return (
        f"{method} lowers the likelihood of the chosen responses: {fell:.0%} of the held-out ones became less likely, "
        f"with a mean log-ratio of {log_ratio:.2f} nats. {advice}"
    )
