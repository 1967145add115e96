"""Kedro datasets: checkpoints, tables, paths for workers, and Kedro's own with atomic writes."""

from rao_kedro.datasets.atomic import CSVDataset, JSONDataset, PartitionedDataset, TextDataset
from rao_kedro.datasets.checkpoint import CheckpointDataset, DirectoryDataset
from rao_kedro.datasets.paths import PathDataset
from rao_kedro.datasets.table import TableDataset
from rao_kedro.datasets.table_file import TableFileDataset, TableFileValidator

__all__ = [
    "CSVDataset",
    "CheckpointDataset",
    "DirectoryDataset",
    "JSONDataset",
    "PartitionedDataset",
    "PathDataset",
    "TableDataset",
    "TableFileDataset",
    "TableFileValidator",
    "TextDataset",
]
