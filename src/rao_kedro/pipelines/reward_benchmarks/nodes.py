"""Nodes of the reward benchmarks."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.reward_benchmarks import RewardBenchmarksParameters
from rao_kedro.config.specs import AnnotationSpec
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.evals.reward_benchmarks.benchmarks import prompt_groups, read_benchmark, score_benchmark
from rao_kedro.files import write_parquet
from rao_kedro.workers import launch


def measure_reward(
    sft_model: Path,
    reward_model: Path,
    parameters: RewardBenchmarksParameters,
    workers: WorkerParameters,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score a reward on every benchmark that the parameters name.

    Returns:
        The scores, and a table of `QuarantineTable`: rows that do not fit their benchmark's schema.
    """
    read = {name: read_benchmark(name, parameters.sources.get(name)) for name in parameters.names}
    tables = []
    with workers.reserve("reward_benchmarks") as workspace:
        reward = parameters.reward.with_defaults(reward_model, sft_model, parameters.mixed_precision, workspace)
        for name, (items, _) in read.items():
            groups, output = workspace / f"{name}.parquet", workspace / f"{name}_rewards.parquet"
            write_parquet(groups, pd.DataFrame(map(vars, prompt_groups(name, items))))
            spec = AnnotationSpec(workspace=workspace, groups_path=groups, reward=reward, output_path=output)
            launch(spec, workers)
            rewards = pd.read_parquet(output)
            scores = score_benchmark(name, items, list(rewards["rewards"]), parameters.seed)
            tables.append(scores.assign(reward=rewards["reward_model"].iloc[0]))
    return pd.concat(tables, ignore_index=True), pd.concat([bad for _, bad in read.values()], ignore_index=True)
