"""Aligned policies as folders with model cards, and on the hub."""

from rao_kedro.pipelines.publish.pipeline import create_pipeline

__all__ = ["create_pipeline"]
