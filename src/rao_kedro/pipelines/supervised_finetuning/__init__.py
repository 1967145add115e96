"""From the base model to the SFT model."""

from rao_kedro.pipelines.supervised_finetuning.pipeline import create_pipeline

__all__ = ["create_pipeline"]
