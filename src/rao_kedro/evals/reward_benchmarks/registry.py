"""The reward benchmarks: a benchmark is a module that reads rows and scores prompts, and a line here."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.evals.reward_benchmarks import judgebench, rewardbench, rewardbench2, rm_bench, rmb
from rao_kedro.evals.reward_benchmarks.items import BenchmarkItem, Row
from rao_kedro.evals.reward_benchmarks.scoring import Result, ScoredPrompt


class RewardBenchmark(NamedTuple):
    """A benchmark of reward models.

    Attributes:
        read_row: Reads a row in the authors' schema.
        score_prompts: Returns the results; takes the prompts, and the seed of the resampling of intervals.
        source: The authors' dataset on the hub; None where there is none.
    """

    read_row: Callable[[Row], BenchmarkItem]
    score_prompts: Callable[[Sequence[ScoredPrompt], int], list[Result]]
    source: PreferenceSource | None


def _hub(hub_id: str, split: str) -> PreferenceSource:
    return PreferenceSource(hub_id=hub_id, split=split)


REWARD_BENCHMARKS = {
    "rewardbench": RewardBenchmark(
        rewardbench.read_row, rewardbench.score_prompts, _hub("allenai/reward-bench", "filtered")
    ),
    "rewardbench2": RewardBenchmark(
        rewardbench2.read_row, rewardbench2.score_prompts, _hub("allenai/reward-bench-2", "test")
    ),
    "rm_bench": RewardBenchmark(rm_bench.read_row, rm_bench.score_prompts, _hub("THU-KEG/RM-Bench", "train")),
    "judgebench": RewardBenchmark(judgebench.read_row, judgebench.score_prompts, _hub("ScalerLab/JudgeBench", "gpt")),
    "rmb": RewardBenchmark(rmb.read_row, rmb.score_prompts, None),
}
