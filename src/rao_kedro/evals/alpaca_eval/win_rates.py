"""AlpacaEval 2: win rates of a model against a baseline, raw and length-controlled (Dubois et al. 2024).

The metrics are computed by the package `alpaca_eval`. Knows nothing about generation and judging.

Annotations are tables with AlpacaEval's columns: `instruction, output_1` (the baseline's), `output_2` (the model's),
`generator_1, generator_2`, and `preference` in [1, 2]: 1 prefers the baseline, 2 the model, 1.5 (0 in old files)
neither.
"""

import importlib
import logging
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from rao_kedro.errors import DataError

GLM = "length_controlled_v1"
WEIGHTS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
REGULARIZATION = 0.2  # weight of the gamed baselines' annotations, both together


def model_outputs(answers: pd.DataFrame) -> dict[str, list[dict[Hashable, Any]]]:
    """Return each method's outputs in the form that the command `alpaca_eval` reads.

    Args:
        answers: Table of `BenchmarkResponseTable`, the answers to AlpacaEval only.
    """
    names = {"prompt": "instruction", "answer": "output", "method": "generator"}
    outputs = answers.rename(columns=names)[[*names.values()]]
    return {str(method): of_method.to_dict("records") for method, of_method in outputs.groupby("generator", sort=False)}


def win_rate(annotations: pd.DataFrame) -> dict[str, float]:
    """Return how often the model is preferred over the baseline.

    Args:
        annotations: Column `preference`; rows where it is NaN are left out.

    Returns:
        AlpacaEval's metrics: `win_rate` and its `standard_error` in percent, `n_wins`, `n_wins_base`, `n_draws`,
        `n_total`, and `discrete_win_rate`, for which preferences are rounded first.

    Raises:
        DataError: There is no column `preference`.
    """
    _require_columns(annotations, "preference")
    with _ignore_warnings():
        metrics = import_package("metrics.winrate").get_winrate(annotations)
    return {name: np.asarray(value).item() for name, value in metrics.items()}


def length_controlled_win_rate(
    annotations: pd.DataFrame, instruction_difficulty: pd.Series | pd.DataFrame, gamed: pd.DataFrame
) -> dict[str, float]:
    """Return the win rate that the model would have if its outputs were as long as the baseline's.

    A logistic regression of the preference on the difference of lengths, the difficulty of the instruction and the
    model (Dubois et al. 2024, section 3), regularised with annotations of the baseline's verbose and concise variants.

    Args:
        annotations: All 805 instructions in AlpacaEval's order, with an index from 0 on: difficulties are looked up by
            the index, not by the instruction.
        instruction_difficulty: Difficulty by the instruction's index, or a table `index, instruction_difficulty`.
        gamed: AlpacaEval's `df_gamed.csv`: `index, model, preference, std_delta_len, instruction_difficulty,
            not_gamed_baseline`. Files that were recovered from published weights have `tanh_std_delta_len` and
            `preference_surrogate` instead, and are read, too.

    Returns:
        The metrics of `win_rate`, `length_controlled_winrate` and `lc_standard_error`, in percent. The last one is
        AlpacaEval's own: it measures the spread of fitted values and is too narrow for an interval, which
        `length_control` computes.

    Raises:
        DataError: A column is missing, or an instruction has no difficulty.
    """
    metrics = win_rate(annotations)
    model, _, test = fit_length_control(annotations, instruction_difficulty, gamed)
    preferred = np.asarray(model.predict_proba(test))[:, 1]
    return metrics | {
        "length_controlled_winrate": float(preferred.mean() * 100),
        "lc_standard_error": float(preferred.std(ddof=1) / len(preferred) ** 0.5 * 100),
    }


def fit_length_control(
    annotations: pd.DataFrame, instruction_difficulty: pd.Series | pd.DataFrame, gamed: pd.DataFrame
) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    """Fit the regression of `length_controlled_win_rate` with the package's own function.

    Args:
        annotations: As in `length_controlled_win_rate`.
        instruction_difficulty: As in `length_controlled_win_rate`.
        gamed: As in `length_controlled_win_rate`.

    Returns:
        The fitted model of scikit-learn. The features that it was fitted to, with `preference` in [0, 1] (NaN where the
        judge gave none) and `weight`; the rows of the gamed baselines come first. The features of the annotations with
        the difference of lengths set to 0.

    Raises:
        DataError: A column is missing, or an instruction has no difficulty.
    """
    import sklearn

    _require_columns(annotations, "preference", "output_1", "output_2")
    train, test, weight = _build_features(annotations, _by_index(instruction_difficulty), _read_gamed(gamed))
    known = train["preference"].notna()
    with _ignore_warnings(), sklearn.config_context():  # the fit sets global options
        model = import_package("metrics.glm_winrate").fit_LogisticRegressionCV(
            train[known], "preference", is_ytrue_proba=True, sample_weight=weight[known], n_splits=5
        )
    return model, train.assign(weight=weight), test


def win_rate_of_weights(weights: pd.Series, instruction_difficulty: pd.Series | pd.DataFrame) -> float:
    """Return the length-controlled win rate that a published model's fitted weights imply, in percent.

    Args:
        weights: Fitted weights by the names in `WEIGHTS`.
        instruction_difficulty: As in `length_controlled_win_rate`.
    """
    _, of_difficulty, of_model = weights[list(WEIGHTS)].to_numpy(dtype=float)
    logits = of_model + of_difficulty * _by_index(instruction_difficulty)
    return float(np.mean(1 / (1 + np.exp(-logits))) * 100)


def _build_features(
    annotations: pd.DataFrame, difficulty: pd.Series, gamed: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Return the design matrices to fit and to predict with, and the weight of each row.

    Does what `alpaca_eval.metrics.glm_winrate._get_featurized_data` does, which reads its inputs from the hub only.
    """
    rows = annotations.reset_index()
    unknown = sorted(set(rows["index"]) - set(difficulty.index))
    if unknown:
        raise DataError(f"{len(unknown)} instructions have no difficulty, the first has the index {unknown[0]}")
    delta = rows["output_1"].str.len() - rows["output_2"].str.len()
    features = pd.DataFrame(
        {
            "preference": rows["preference"].astype(float).replace({0.0: 1.5}) - 1,
            "std_delta_len": delta / delta.std(),
            "instruction_difficulty": rows["index"].map(difficulty),
            "not_gamed_baseline": True,
        }
    )
    both = pd.concat([gamed, features], ignore_index=True)
    package = import_package("metrics.glm_winrate")
    formula = package.GLM_INFO[GLM]["formula"]
    train, test = package.make_dmatrix_for_model(both, features.assign(std_delta_len=0.0), formula=formula)
    n_gamed_models = 2
    weight = both["not_gamed_baseline"].map({True: 1.0, False: REGULARIZATION / n_gamed_models})
    return train, test, weight


def _by_index(difficulty: pd.Series | pd.DataFrame) -> pd.Series:
    if isinstance(difficulty, pd.Series):
        return difficulty
    _require_columns(difficulty, "instruction_difficulty")
    table = difficulty.set_index("index") if "index" in difficulty else difficulty
    return table["instruction_difficulty"]


def _read_gamed(gamed: pd.DataFrame) -> pd.DataFrame:
    if "preference_surrogate" in gamed:
        gamed = gamed.assign(
            preference=gamed["preference_surrogate"], std_delta_len=np.arctanh(gamed["tanh_std_delta_len"])
        )
    columns = ["preference", "std_delta_len", "instruction_difficulty"]
    _require_columns(gamed, *columns)
    return gamed[columns].assign(not_gamed_baseline=False)


def _require_columns(table: pd.DataFrame, *columns: str) -> None:
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"AlpacaEval: a table has no column {missing[0]!r}, only {', '.join(map(str, table.columns))}")


def import_package(module: str) -> Any:
    """Import a module of the package `alpaca_eval`, and restore the root logger's level, which that import changes."""
    root = logging.getLogger()
    level = root.level
    imported = importlib.import_module(f"alpaca_eval.{module}")
    root.setLevel(level)
    return imported


@contextmanager
def _ignore_warnings() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # of pandas and scikit-learn; only the package's authors can act on them
        yield
