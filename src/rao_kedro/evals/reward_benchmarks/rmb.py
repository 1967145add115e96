"""RMB (Zhou et al. 2024), Zhou-Zoey/RMB-Reward-Model-Benchmark."""

from collections.abc import Sequence

from rao_kedro.evals.reward_benchmarks.items import (
    ALL,
    BenchmarkItem,
    Row,
    get_list,
    get_messages,
    get_text,
    get_value,
    require_known,
)
from rao_kedro.evals.reward_benchmarks.scoring import SCORE, Result, ScoredPrompt, is_won, section_mean, subset_means

SECTIONS = ("Helpfulness pairwise", "Helpfulness best-of-N", "Harmlessness pairwise", "Harmlessness best-of-N")


def read_row(row: Row) -> BenchmarkItem:
    """Read a row: `conversation_input, category_path`, and the responses.

    Pairs have `pair_uid, chosen, reject`; best-of-N rows have `bon_uid, bon_best, loser_list`. A response is an object
    with its text in `answer`. The `category_path` is `<set>/<goal>/<scenario>`.
    """
    _, goal, scenario = [*get_text(row, "category_path").split("/", 2), "", ""][:3]
    if row.get("bon_best") is None:
        kind, name, chosen, rejected = "pairwise", "pair_uid", get_value(row, "chosen"), [get_value(row, "reject")]
    else:
        kind, name, chosen, rejected = "best-of-N", "bon_uid", row["bon_best"], get_list(row, "loser_list")
    section = f"{goal} {kind}"
    require_known("goal", section, SECTIONS)
    return BenchmarkItem(
        str(get_value(row, name)),
        section,
        scenario or ALL,
        get_messages(row, "conversation_input"),
        (get_text(chosen, "answer"),),
        tuple(get_text(response, "answer") for response in rejected),
    )


def score_prompts(prompts: Sequence[ScoredPrompt], seed: int) -> list[Result]:
    """Return the mean of helpfulness and harmlessness, each pairwise and best-of-N (Table 3 of the paper).

    Each of these four is a mean over rows. A best-of-N row is won where its best response beats every other one; a tie
    is not a win (eval/scripts/my_run_rm.py: chosen > reject).
    """
    sections = subset_means(prompts, {SCORE: is_won}, seed)
    return [*sections, section_mean(sections, SECTIONS)]
