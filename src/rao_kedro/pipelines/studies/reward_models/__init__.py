"""Reward models from the base model, from the SFT model and implicit in DPO, on few and on many pairs."""

from rao_kedro.pipelines.studies.reward_models.pipeline import create_pipeline

__all__ = ["create_pipeline"]
