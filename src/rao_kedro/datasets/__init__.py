"""Kedro datasets of our own: checkpoints, tables, paths for workers, resumable workspaces."""

from rao_kedro.datasets.checkpoint import CheckpointDataset
from rao_kedro.datasets.paths import PathDataset, WorkspaceDataset
from rao_kedro.datasets.table import TableDataset

__all__ = ["CheckpointDataset", "PathDataset", "TableDataset", "WorkspaceDataset"]
