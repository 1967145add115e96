"""RewardBench (Lambert et al. 2024), allenai/reward-bench."""

from collections.abc import Sequence

import numpy as np

from rao_kedro.evals.reward_benchmarks.items import (
    ALL,
    BenchmarkItem,
    Row,
    get_messages,
    get_text,
    get_value,
    require_known,
)
from rao_kedro.evals.reward_benchmarks.scoring import (
    SCORE,
    Result,
    ScoredPrompt,
    aggregate,
    is_won,
    section_mean,
    subset_means,
)
from rao_kedro.statistics import NAN

# Sections, their subsets and the weight of each: SUBSET_MAPPING and EXAMPLE_COUNTS of rewardbench/constants.py in
# allenai/reward-bench. math-prm has 447 prompts, and weighs as much as the six subsets of code together.
SUBSETS = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 250,
        "xstest-should-respond": 154,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
SECTION_OF = {subset: section for section, subsets in SUBSETS.items() for subset in subsets}


def read_row(row: Row) -> BenchmarkItem:
    """Read a row: `prompt, chosen, rejected, subset, id`."""
    subset = str(get_value(row, "subset"))
    require_known("subset", subset, SECTION_OF)
    return BenchmarkItem(
        str(get_value(row, "id")),
        SECTION_OF[subset],
        subset,
        get_messages(row, "prompt"),
        (get_text(row, "chosen"),),
        (get_text(row, "rejected"),),
    )


def score_prompts(prompts: Sequence[ScoredPrompt], seed: int) -> list[Result]:
    """Score prompts as `calculate_scores_per_section` of rewardbench/utils.py does.

    A tie is not a win (scripts/run_rm.py: chosen > rejected). The score is the mean of four sections. A section is the
    mean of its subsets, weighted with their published sizes; subsets without prompts are left out. So is the
    leaderboard's fifth section, the prior sets, which are another dataset.
    """
    subsets = [result for result in subset_means(prompts, {SCORE: is_won}, seed) if result.subset != ALL]
    sections = [_weighted_section(section, subsets) for section in SUBSETS]
    return [*subsets, *sections, section_mean(sections, SUBSETS)]


def _weighted_section(section: str, subsets: Sequence[Result]) -> Result:
    parts = [result for result in subsets if result.section == section]
    scored = [result for result in parts if result.n]
    weights = [SUBSETS[section][result.subset] for result in scored]
    value = float(np.average([result.value for result in scored], weights=weights)) if scored else NAN
    return aggregate(section, SCORE, value, parts)
