"""What a user should know of an evaluation, in sentences. Knows numbers; no model."""

from collections.abc import Mapping, Sequence

from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.objectives.log_z0 import largest_raising_log_z0


def likelihood_remark(
    method: str, metrics: Mapping[str, float], groups: Sequence[TokenizedGroup], beta: float | None
) -> str | None:
    """Return a sentence if most held-out chosen responses became less likely, with the log_z0 of RAO that raises them.

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
    rao, limit = (f"RAO with beta {beta:g}", f"{bound:.2f}") if beta else ("RAO", f"{bound:.2f} / beta")
    return (
        f"{method} lowers the likelihood of the chosen responses: {fell:.0%} of the held-out ones became less likely, "
        f"with a mean log-ratio of {log_ratio:.2f} nats. {rao} raises the mean target of the chosen responses above 0 "
        f"for log_z0 <= {limit} nats."
    )
