"""JudgeBench (Tan et al. 2024), ScalerLab/JudgeBench."""

from collections.abc import Sequence

from rao_kedro.evals.reward_benchmarks.items import (
    ALL,
    BenchmarkItem,
    Row,
    get_messages,
    get_text,
    get_value,
    require_known,
)
from rao_kedro.evals.reward_benchmarks.scoring import SCORE, Result, ScoredPrompt, evaluate, mean_result, subset_means

CATEGORIES = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}


def read_row(row: Row) -> BenchmarkItem:
    """Read a row: `pair_id, question, response_A, response_B, label, source`."""
    source, label = str(get_value(row, "source")), str(get_value(row, "label"))
    prefix = next((prefix for prefix in CATEGORIES if source.startswith(prefix)), source)
    require_known("source", prefix, CATEGORIES)
    require_known("label", label, ("A>B", "B>A"))
    best, worst = label.split(">")
    return BenchmarkItem(
        str(get_value(row, "pair_id")),
        CATEGORIES[prefix],
        ALL if source == prefix else source,
        get_messages(row, "question"),
        (get_text(row, f"response_{best}"),),
        (get_text(row, f"response_{worst}"),),
    )


def score_prompts(prompts: Sequence[ScoredPrompt], seed: int) -> list[Result]:
    """Score prompts by category and over all pairs, as run_judge.py does.

    A tie counts half. The authors' code (utils/judges.py) takes a tie for B > A, which is right as often as B > A is
    the label.
    """
    total = mean_result(ALL, ALL, SCORE, [evaluate(_won_or_half, prompt) for prompt in prompts], seed)
    return [*subset_means(prompts, {SCORE: _won_or_half}, seed), total]


def _won_or_half(prompt: ScoredPrompt) -> float:
    return (prompt.margin > 0) + 0.5 * (prompt.margin == 0)
