"""From reward-annotated groups to aligned policies, one namespace per method."""

from rao_kedro.pipelines.alignment.pipeline import create_pipeline

__all__ = ["create_pipeline"]
