"""How each objective moves the likelihood of chosen and rejected responses (the RAO paper's Fig. 2, in small)."""

from rao_kedro.pipelines.studies.likelihood.pipeline import create_pipeline

__all__ = ["create_pipeline"]
