"""Measures of a judge's reliability: position bias, length bias, and agreement with another judge.

Tables are annotations of the package `alpaca_eval` with the column `is_switched_outputs`; the last level of their index
is the instruction. The unit of the intervals is the instruction: rows with the same instruction, from runs with
different training seeds, are averaged first. Knows nothing about how a judge is asked.
"""

from typing import Any

import numpy as np
import pandas as pd

from rao_kedro.statistics import Interval, mean_interval

COLUMNS = ["metric", "value", "low", "high", "n"]


def position_bias(annotations: pd.DataFrame, swapped: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how much a judge's preference depends on the order of the two outputs.

    Args:
        annotations: Annotations in AlpacaEval's order.
        swapped: Annotations of the same pairs in the other order, with the same index.
        seed: Seed of the bootstrap of the intervals.

    Returns:
        Columns `metric, value, low, high, n`: `first_preferred`, the mean preference for the output shown first (0.5
        without bias, 1 for a judge that always takes the first), and `consistent`, the share of pairs with the same
        winner in both orders. A pair without a preference in one of the orders is left out.
    """
    both = annotations["preference"].notna() & swapped["preference"].notna()
    first, second = annotations[both], swapped[both]
    for_first = (_preference_for_first(first) + _preference_for_first(second)) / 2
    consistent = _winner(first) == _winner(second)
    return _table(first_preferred=share_interval(for_first, seed), consistent=share_interval(consistent, seed))


def length_bias(annotations: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how preferences depend on the lengths of the outputs.

    Args:
        annotations: Annotations in AlpacaEval's order.
        seed: Seed of the bootstrap of the intervals.

    Returns:
        Columns `metric, value, low, high, n`: `longer_preferred`, the share of pairs whose longer output (in
        characters) wins, among pairs with a winner and different lengths; and `length_correlation`, Spearman's
        correlation of the preference for the model's output with its length minus the baseline's (without interval).
    """
    from scipy.stats import spearmanr

    known = annotations[annotations["preference"].notna()]
    longer = known["output_2"].str.len() - known["output_1"].str.len()
    decided = (longer != 0) & (known["preference"] != 1.5)
    wins = (longer[decided] > 0) == (known["preference"][decided] > 1.5)
    varies = longer.nunique() > 1 and known["preference"].nunique() > 1
    correlation = float(spearmanr(longer, known["preference"]).statistic) if varies else np.nan
    return _table(
        longer_preferred=share_interval(wins, seed),
        length_correlation=Interval(correlation, np.nan, np.nan, _units(known)),
    )


def agreement(annotations: pd.DataFrame, others: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how often two judges name the same winner.

    Args:
        annotations: Annotations of the first judge.
        others: Annotations of the second judge, with the same index.
        seed: Seed of the bootstrap of the intervals.

    Returns:
        Columns `metric, value, low, high, n`: `agreement`, the share of pairs with the same winner, and Cohen's
        `kappa`, which is 0 for agreement by chance (without interval). A pair without a preference of one of the judges
        is left out.
    """
    from sklearn.metrics import cohen_kappa_score

    both = annotations["preference"].notna() & others["preference"].notna()
    ours, theirs = _winner(annotations[both]), _winner(others[both])
    kappa = cohen_kappa_score(ours, theirs, labels=[-1, 0, 1]) if len(ours) else np.nan
    return _table(
        agreement=share_interval(ours == theirs, seed), kappa=Interval(float(kappa), np.nan, np.nan, _units(ours))
    )


def share_interval(values: pd.Series, seed: int) -> Interval:
    """Return the mean over instructions of values in [0, 1], with its interval."""
    by_instruction = values.astype(float).groupby(level=-1).mean()
    return mean_interval(by_instruction.tolist(), (0, 1), seed)


def _units(rows: pd.DataFrame | pd.Series) -> int:
    return rows.index.get_level_values(-1).nunique()


def _table(**found: Interval) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = [(name, *interval) for name, interval in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _preference_for_first(annotations: pd.DataFrame) -> pd.Series:
    """Return the preference for the output shown first, in [0, 1]."""
    for_model = annotations["preference"] - 1
    return for_model.where(annotations["is_switched_outputs"], 1 - for_model)


def _winner(annotations: pd.DataFrame) -> pd.Series:
    """Return 1 where the model wins, -1 where the baseline does, 0 for a tie."""
    return np.sign(annotations["preference"] - 1.5).astype(int)
