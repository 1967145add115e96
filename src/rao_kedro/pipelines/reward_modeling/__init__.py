"""From ratings to a reward model, and from it to reward-annotated groups."""

from rao_kedro.pipelines.reward_modeling.pipeline import create_pipeline

__all__ = ["create_pipeline"]
