"""A reward on public reward benchmarks."""

from rao_kedro.pipelines.reward_benchmarks.pipeline import create_pipeline

__all__ = ["create_pipeline"]
