"""Kedro datasets of our own: checkpoints, paths for workers, resumable workspaces."""

from rao_kedro.datasets.checkpoint import CheckpointDataset
from rao_kedro.datasets.paths import PathDataset, WorkspaceDataset

__all__ = ["CheckpointDataset", "PathDataset", "WorkspaceDataset"]
