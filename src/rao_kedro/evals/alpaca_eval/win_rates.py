"""AlpacaEval 2: win rates of a model against a baseline, raw and length-controlled (Dubois et al. 2024).

The metrics, the prompt, the random order of the outputs and the reading of the judge's log-probs are the package
`alpaca_eval`'s own. Knows nothing about who generates or judges.

Annotations are tables with AlpacaEval's columns: `instruction, output_1` (the baseline's), `output_2` (the model's),
`generator_1, generator_2`, and `preference` in [1, 2]: 1 is the baseline, 2 the model, 1.5 (0 in old files) neither.
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
    """Return answers to AlpacaEval's instructions by method, as the command `alpaca_eval` reads them.

    Args:
        answers: Table of `BenchmarkAnswerTable`; other benchmarks are left out.
    """
    names = {"prompt": "instruction", "answer": "output", "method": "generator"}
    outputs = answers[answers["benchmark"] == "alpaca_eval"].rename(columns=names)[[*names.values()]]
    return {str(method): of_method.to_dict("records") for method, of_method in outputs.groupby("generator", sort=False)}


def win_rate(annotations: pd.DataFrame) -> dict[str, float]:
    """Return how often the model is preferred over the baseline.

    Args:
        annotations: Column `preference`; rows where it is not a number are left out.

    Returns:
        AlpacaEval's metrics: `win_rate` and its `standard_error` in percent, `n_wins`, `n_wins_base`, `n_draws`,
        `n_total`, and `discrete_win_rate`, where a preference is rounded first.

    Raises:
        DataError: There is no preference.
    """
    _checked(annotations, "preference")
    with _quietly():
        metrics = of_package("metrics.winrate").get_winrate(annotations)
    return {name: np.asarray(value).item() for name, value in metrics.items()}


def length_controlled_win_rate(
    annotations: pd.DataFrame, instruction_difficulty: pd.Series | pd.DataFrame, gamed: pd.DataFrame
) -> dict[str, float]:
    """Return the win rate that the model would have if its outputs were as long as the baseline's.

    A logistic regression of the preference on the difference of lengths, the difficulty of the instruction and the
    model (section 3 of the paper), regularised by annotations of the baseline in its verbose and concise variants.

    Args:
        annotations: All of the 805 instructions, in AlpacaEval's order and with an index from 0 on: the difficulty is
            looked up by it, not by the instruction.
        instruction_difficulty: By the instruction's index; or with columns `index, instruction_difficulty`.
        gamed: AlpacaEval's `df_gamed.csv`: `index, model, preference, std_delta_len, instruction_difficulty,
            not_gamed_baseline`. With `tanh_std_delta_len` and `preference_surrogate` instead, as files that were
            recovered from published weights have them, too.

    Returns:
        Those of `win_rate`, `length_controlled_winrate` and `lc_standard_error` in percent. The latter is AlpacaEval's
        own number, a spread of fitted values and too narrow for an interval; `length_control` has one.

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
        annotations: As there.
        instruction_difficulty: As there.
        gamed: As there.

    Returns:
        The fitted model of scikit-learn; the features it was fitted to with `preference` (in [0, 1], NaN where the
        judge gave none) and `weight`, the gamed baselines' rows first; the features without a difference of lengths.

    Raises:
        DataError: A column is missing, or an instruction has no difficulty.
    """
    import sklearn

    _checked(annotations, "preference", "output_1", "output_2")
    train, test, weight = _featurised(annotations, _by_index(instruction_difficulty), _gamed_rows(gamed))
    known = train["preference"].notna()
    with _quietly(), sklearn.config_context():  # the fit sets global options
        model = of_package("metrics.glm_winrate").fit_LogisticRegressionCV(
            train[known], "preference", is_ytrue_proba=True, sample_weight=weight[known], n_splits=5
        )
    return model, train.assign(weight=weight), test


def win_rate_of_weights(weights: pd.Series, instruction_difficulty: pd.Series | pd.DataFrame) -> float:
    """Return the length-controlled win rate that a published model's fitted weights imply, in percent.

    Args:
        weights: By the names of `WEIGHTS`.
        instruction_difficulty: As for `length_controlled_win_rate`.
    """
    _, of_difficulty, of_model = weights[list(WEIGHTS)].to_numpy(dtype=float)
    logits = of_model + of_difficulty * _by_index(instruction_difficulty)
    return float(np.mean(1 / (1 + np.exp(-logits))) * 100)


def _featurised(
    annotations: pd.DataFrame, difficulty: pd.Series, gamed: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Return the design matrices to fit and to predict with, and the weight of each row.

    As `alpaca_eval.metrics.glm_winrate._get_featurized_data`, which only reads its inputs from the hub.
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
    package = of_package("metrics.glm_winrate")
    formula = package.GLM_INFO[GLM]["formula"]
    train, test = package.make_dmatrix_for_model(both, features.assign(std_delta_len=0.0), formula=formula)
    n_gamed_models = 2
    weight = both["not_gamed_baseline"].map({True: 1.0, False: REGULARIZATION / n_gamed_models})
    return train, test, weight


def _by_index(difficulty: pd.Series | pd.DataFrame) -> pd.Series:
    if isinstance(difficulty, pd.Series):
        return difficulty
    _checked(difficulty, "instruction_difficulty")
    table = difficulty.set_index("index") if "index" in difficulty else difficulty
    return table["instruction_difficulty"]


def _gamed_rows(gamed: pd.DataFrame) -> pd.DataFrame:
    if "preference_surrogate" in gamed:
        gamed = gamed.assign(
            preference=gamed["preference_surrogate"], std_delta_len=np.arctanh(gamed["tanh_std_delta_len"])
        )
    columns = ["preference", "std_delta_len", "instruction_difficulty"]
    _checked(gamed, *columns)
    return gamed[columns].assign(not_gamed_baseline=False)


def _checked(table: pd.DataFrame, *columns: str) -> None:
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"AlpacaEval: a table has no column {missing[0]!r}, only {', '.join(map(str, table.columns))}")


def of_package(module: str) -> Any:
    """Import a module of the package `alpaca_eval`, which else would change the level of everyone's logging."""
    root = logging.getLogger()
    level = root.level
    imported = importlib.import_module(f"alpaca_eval.{module}")
    root.setLevel(level)
    return imported


@contextmanager
def _quietly() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of pandas and scikit-learn, for the package's authors
        yield
