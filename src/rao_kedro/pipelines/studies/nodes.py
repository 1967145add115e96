"""Nodes that all studies share."""

import pandas as pd


def collect_logs(**logs: pd.DataFrame) -> pd.DataFrame:
    """Return the training logs of runs one below the other, with a column `run`."""
    return pd.concat([log.assign(run=run) for run, log in logs.items()], ignore_index=True)
