"""The best evaluation of a run so far, by which weights are chosen and training stops. Part of every checkpoint."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    Attributes:
        score: Its selection metric, the higher the better; None before the first evaluation.
        since: Evaluations since then.
    """

    score: float | None = None
    since: int = 0

    def after(self, score: float) -> "Best":
        """Return the best evaluation after one more; NaN is never better."""
        better = self.score is None or score > self.score
        return Best(score) if better else Best(self.score, self.since + 1)
