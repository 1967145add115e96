"""Rewards of a benchmark's prompts, and the means that scores are made of."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rao_kedro.evals.reward_benchmarks.items import ALL, BenchmarkItem
from rao_kedro.statistics import NAN, mean_interval

SCORE = "score"
Metric = Callable[..., float]


@dataclass(frozen=True)
class ScoredPrompt:
    """An item with the rewards of its responses; a reward is NaN where a response could not be scored."""

    item: BenchmarkItem
    chosen: list[float]
    rejected: list[float]

    @property
    def complete(self) -> bool:
        """Whether all responses could be scored."""
        return not any(math.isnan(reward) for reward in (*self.chosen, *self.rejected))

    @property
    def margin(self) -> float:
        """Reward of the worst chosen response minus that of the best rejected one."""
        return min(self.chosen) - max(self.rejected)

    @property
    def spread(self) -> float:
        """Largest reward of a chosen response minus the smallest one."""
        return max(self.chosen) - min(self.chosen)


class Result(NamedTuple):
    """A row of the table that `score_benchmark` returns, without the benchmark."""

    section: str
    subset: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    n_unscored: int


def evaluate(metric: Metric, *prompts: ScoredPrompt) -> float:
    """Return a metric of prompts; NaN where a response could not be scored."""
    return float(metric(*prompts)) if all(prompt.complete for prompt in prompts) else NAN


def is_won(prompt: ScoredPrompt) -> float:
    """Return whether every chosen response beats every rejected one; a tie is not a win."""
    return prompt.margin > 0


def subset_means(prompts: Iterable[ScoredPrompt], metrics: Mapping[str, Metric], seed: int) -> list[Result]:
    """Return the mean of each metric over the prompts of each subset and of each section."""
    parts: dict[tuple[str, str], list[ScoredPrompt]] = defaultdict(list)
    for prompt in prompts:
        for subset in dict.fromkeys((prompt.item.subset, ALL)):
            parts[prompt.item.section, subset].append(prompt)
    return [
        mean_result(*names, metric, [evaluate(function, prompt) for prompt in part], seed)
        for names, part in parts.items()
        for metric, function in metrics.items()
    ]


def mean_result(section: str, subset: str, metric: str, values: Sequence[float], seed: int) -> Result:
    """Return the mean of the known values with its interval; NaN values are counted and left out."""
    known = [value for value in values if not math.isnan(value)]
    bounds = (-1, 1) if metric == "correctness_margin" else (0, 1)
    return Result(section, subset, metric, *mean_interval(known, bounds, seed), len(values) - len(known))


def section_mean(results: Sequence[Result], sections: Iterable[str], metric: str = SCORE) -> Result:
    """Return the mean of the sections; NaN where one of them has no scored prompt."""
    found = {result.section: result for result in results if (result.subset, result.metric) == (ALL, metric)}
    value = float(np.mean([found[section].value if section in found else NAN for section in sections]))
    return aggregate(ALL, metric, value, list(found.values()))


def aggregate(section: str, metric: str, value: float, parts: Sequence[Result]) -> Result:
    """Return a value that is made of means, without an interval of its own."""
    n, n_unscored = sum(part.n for part in parts), sum(part.n_unscored for part in parts)
    return Result(section, ALL, metric, value, NAN, NAN, n, n_unscored)
