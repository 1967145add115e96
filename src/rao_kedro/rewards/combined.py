"""A reward made of other rewards: their weighted sum, or the first that scores a response."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.errors import ParameterError
from rao_kedro.rewards.base import Reward, Scores
from rao_kedro.rewards.registry import make_reward


class CombinedReward(Reward):
    """Combines several rewards."""

    def __init__(self, *, parts: Sequence[Mapping[str, Any]], mode: Literal["weighted", "first"] = "weighted") -> None:
        """Build the parts.

        Args:
            parts: Rewards as `{name, parameters, weight}`; the default weight is 1.
            mode: "weighted" sums the weighted rewards; a response needs a score from every part. "first" takes the
                weighted reward of the first part that scores the response: for example rules, then a reward model for
                prompts without rules.

        Raises:
            ParameterError: There is no part, a part is not a reward, or the mode is unknown.
        """
        if mode not in ("weighted", "first"):
            raise ParameterError(f"reward 'combined': mode is {mode!r}; it must be weighted or first")
        if not parts:
            raise ParameterError("reward 'combined': parts names no reward")
        if unknown := {key for part in parts for key in part} - {"name", "parameters", "weight"}:
            raise ParameterError(
                f"reward 'combined': a part has no field {', '.join(unknown)}: it takes name, parameters and weight"
            )
        self.mode = mode
        self.parts = [make_reward(part["name"], **part.get("parameters", {})) for part in parts]
        self.weights = [float(part.get("weight", 1.0)) for part in parts]

    @property
    def identity(self) -> str:
        """Return the weights and identities of the parts."""
        parts = (f"{weight:g} ({part.identity})" for weight, part in zip(self.weights, self.parts, strict=True))
        return f"{self.mode}: {' + '.join(parts)}"

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the combined scores of each group."""
        by_part = [part.annotate(groups) for part in self.parts]
        combine = self._weighted if self.mode == "weighted" else self._first
        return [combine(of_group) for of_group in zip(*by_part, strict=True)]

    def forecast(self, groups: Sequence[PromptGroup]) -> None:
        """Log the expected cost of each part."""
        for part in self.parts:
            part.forecast(groups)

    def _weighted(self, parts: Sequence[Scores]) -> Scores:
        rewards = [math.fsum(w * r for w, r in zip(self.weights, of, strict=True)) for of in _columns(parts, "rewards")]
        truncated = [any(of) for of in _columns(parts, "truncated")]
        return Scores(rewards, truncated, ["; ".join(filter(None, of)) for of in _columns(parts, "failures")])

    def _first(self, parts: Sequence[Scores]) -> Scores:
        failures = _columns(parts, "failures")
        chosen = [next((i for i, failure in enumerate(of) if not failure), None) for of in failures]
        return Scores(
            [math.nan if i is None else self.weights[i] * parts[i].rewards[j] for j, i in enumerate(chosen)],
            [i is not None and parts[i].truncated[j] for j, i in enumerate(chosen)],
            ["; ".join(of) if i is None else "" for of, i in zip(failures, chosen, strict=True)],
        )


def _columns(parts: Sequence[Scores], name: str) -> list[tuple[Any, ...]]:
    """Return one field of all parts, as one tuple per response."""
    return list(zip(*(getattr(part, name) for part in parts), strict=True))
