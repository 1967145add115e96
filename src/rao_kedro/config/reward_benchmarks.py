"""Parameters of the reward_benchmarks pipeline."""

from rao_kedro.config.base import Names, Parameters
from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import Precision


class RewardBenchmarksParameters(Parameters):
    """The reward_benchmarks pipeline.

    Attributes:
        names: Names of `rao_kedro.evals.reward_benchmarks.benchmarks.benchmark_names()`.
        sources: Where a benchmark's rows are; the authors' dataset of the hub if not set.
        reward: What is measured.
        mixed_precision: Of a model that computes here.
        seed: Seeds the resampling of the intervals.
    """

    names: Names
    sources: dict[str, PreferenceSource] = {}
    reward: RewardParameters = RewardParameters()
    mixed_precision: Precision = "bf16"
    seed: int = 0
