"""From policies to a leaderboard and a report."""

from rao_kedro.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
