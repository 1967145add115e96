"""The reward benchmarks as a pipeline."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.pipelines.reward_benchmarks.nodes import measure_reward


def create_pipeline() -> Pipeline:
    """Return the pipeline from `reward_model` to its scores on public benchmarks."""
    node = Node(
        measure_reward,
        inputs={
            "sft_model": "sft_model",
            "reward_model": "reward_model",
            "parameters": "params:reward_benchmarks",
            "workers": "params:workers",
        },
        outputs=["reward_benchmarks", "reward_benchmark_quarantine"],
        name="measure_reward",
    )
    return Pipeline([node], tags="reward_benchmarks")
