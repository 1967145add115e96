"""RM-Bench (Liu et al. 2024), THU-KEG/RM-Bench."""

import operator
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.evals.reward_benchmarks.items import (
    ALL,
    BenchmarkItem,
    Row,
    get_messages,
    get_texts,
    get_value,
    require_known,
)
from rao_kedro.evals.reward_benchmarks.scoring import SCORE, Result, ScoredPrompt, section_mean, subset_means

DOMAINS = ("chat", "code", "math", "safety")


def read_row(row: Row) -> BenchmarkItem:
    """Read a row: `id, prompt, domain`, and `chosen` and `rejected` in three styles each.

    The styles are concise, detailed, and detailed with markdown. The domains safety-refuse and safety-response are
    subsets of safety.
    """
    domain = str(get_value(row, "domain"))
    section = domain.split("-")[0]
    require_known("domain", section, DOMAINS)
    chosen, rejected = get_texts(row, "chosen"), get_texts(row, "rejected")
    if (len(chosen), len(rejected)) != (3, 3):
        detail = f"{len(chosen)} chosen and {len(rejected)} rejected responses; both have three styles"
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    subset = ALL if domain == section else domain
    return BenchmarkItem(str(get_value(row, "id")), section, subset, get_messages(row, "prompt"), chosen, rejected)


def score_prompts(prompts: Sequence[ScoredPrompt], seed: int) -> list[Result]:
    """Score prompts as README.md and `compute_accuracy` of scripts/utils.py in THU-KEG/RM-Bench do.

    Every chosen response is compared with every rejected one; a tie is not a win. The score is the mean of this 3 x 3
    matrix, styles of chosen times styles of rejected. `hard` is its upper triangle, where the rejected response has the
    fancier style, `normal` the diagonal, and `easy` the lower triangle. Totals are means of the four domains (README.md
    of THU-KEG/RM-Bench-Leaderboard). Prompts of safety-refuse and of safety-response have the same weight.
    """
    compared: dict[str, Callable[[int, int], bool]] = {
        SCORE: lambda i, j: True,
        "hard": operator.lt,
        "normal": operator.eq,
        "easy": operator.gt,
    }
    domains = subset_means(prompts, {name: partial(_styles_won, compare) for name, compare in compared.items()}, seed)
    return [*domains, *(section_mean(domains, DOMAINS, metric) for metric in compared)]


def _styles_won(compare: Callable[[int, int], bool], prompt: ScoredPrompt) -> float:
    cells = [(i, j) for i in range(3) for j in range(3) if compare(i, j)]
    return float(np.mean([prompt.chosen[i] > prompt.rejected[j] for i, j in cells]))
