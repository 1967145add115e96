"""A figure as plotly's JSON."""

import kedro_datasets.plotly

from rao_kedro.datasets.atomic import AtomicWrites


class JSONDataset(AtomicWrites, kedro_datasets.plotly.JSONDataset):
    """`plotly.JSONDataset`, written whole or not at all."""
