"""Parameters of the reward_benchmarks pipeline."""

from rao_kedro.config.base import Names, Parameters
from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import Precision


class RewardBenchmarksParameters(Parameters):
    """The reward_benchmarks pipeline.

    Attributes:
        names: Names of `rao_kedro.evals.reward_benchmarks.registry`.
        sources: Where the rows of a benchmark are, by its name; unset, in the authors' dataset on the hub.
        reward: The reward that is measured.
        mixed_precision: Precision of a model that scores on this machine.
        seed: Seeds the resampling of intervals.
    """

    names: Names
    sources: dict[str, PreferenceSource] = {}
    reward: RewardParameters = RewardParameters()
    mixed_precision: Precision = "bf16"
    seed: int = 0
