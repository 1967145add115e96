"""From prompts or preference data to tokenised prompt groups."""

from rao_kedro.pipelines.data_engineering.pipeline import create_pipeline

__all__ = ["create_pipeline"]
