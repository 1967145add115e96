"""Reward models from the base model, from the SFT model and implicit in DPO, on few and on many pairs."""

from rao_kedro.pipelines.reward_model_study.pipeline import create_pipeline

__all__ = ["create_pipeline"]
