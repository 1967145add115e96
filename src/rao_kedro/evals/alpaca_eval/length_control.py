"""The uncertainty of AlpacaEval's length-controlled win rate: a bootstrap over instructions.

`lc_standard_error` of the package `alpaca_eval` is the standard error of the fitted win rates of the instructions. It
ignores the uncertainty of the fit, and is too small. Here the instructions are resampled, and the regression is fitted
to each draw.
"""

import numpy as np
import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.alpaca_eval.win_rates import fit_length_control

RESAMPLES = 1000
AT_ONCE = 100
MAX_STEPS = 100
TOLERANCE = 1e-8
# For a model near 50 %, cross-validation often chooses a penalty that makes all coefficients 0 in every draw. The
# interval would have no width.
MAX_PENALTY = 0.1


def length_controlled_resamples(
    annotations: pd.DataFrame,
    instruction_difficulty: pd.Series | pd.DataFrame,
    gamed: pd.DataFrame,
    seed: int,
    resamples: int = RESAMPLES,
) -> np.ndarray:
    """Return the length-controlled win rate on bootstrap draws of the instructions.

    Lengths are standardised within each draw. The strength of the L1 penalty is the one that cross-validation chose on
    all instructions, at most `MAX_PENALTY`. The annotations of the gamed baselines, which regularise the fit, are not
    resampled.

    Args:
        annotations: As in `win_rates.length_controlled_win_rate`. Tables with the same index and the same seed get the
            same draws, so that the difference of two models is paired.
        instruction_difficulty: As in `win_rates.length_controlled_win_rate`.
        gamed: As in `win_rates.length_controlled_win_rate`.
        seed: Seeds the draws.
        resamples: Number of draws.

    Returns:
        Win rates in percent, `[resamples]`.

    Raises:
        DataError: A table is unusable, or a fit does not converge.
    """
    annotations = annotations.sort_index()
    model, train, test = fit_length_control(annotations, instruction_difficulty, gamed)
    n, n_gamed = len(annotations), len(train) - len(annotations)
    targets, fixed = train["preference"].to_numpy(), train["weight"].to_numpy()
    design = train.drop(columns=["preference", "weight"]).to_numpy()
    difficulty = test["instruction_difficulty"].to_numpy()[:, None]
    delta = (annotations["output_1"].str.len() - annotations["output_2"].str.len()).to_numpy(dtype=float)
    known = ~np.isnan(targets)
    penalty = min(1 / model.C_[0], MAX_PENALTY)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).T
    found = []
    for counts in np.array_split(draws, -(-resamples // AT_ONCE), axis=1):
        spread = np.sqrt((counts.T @ delta**2 - (counts.T @ delta) ** 2 / n) / (n - 1))
        features = np.repeat(design.T[:, :, None], counts.shape[1], axis=2)
        features[0, n_gamed:] = np.tanh(delta[:, None] / spread)
        weights = np.concatenate([np.repeat(fixed[:n_gamed, None], counts.shape[1], axis=1), counts])
        fits = fit_logistic(features[:, known], targets[known], weights[known], penalty, model.coef_[0])
        preferred = 1 / (1 + np.exp(-(fits[1] * difficulty + fits[2])))
        found.append((counts * preferred).sum(axis=0) / n * 100)
    return np.concatenate(found)


def fit_logistic(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float, start: np.ndarray
) -> np.ndarray:
    """Fit many small logistic regressions at once with Newton's method and an L1 penalty.

    Minimises `sum_i w_i (log(1 + exp(z_i)) - y_i z_i) + penalty sum_k |b_k|` with `z_i = sum_k x_ik b_k`, as liblinear
    does for the package `alpaca_eval`.

    Args:
        features: `[coefficients, rows, fits]`.
        targets: Probabilities, `[rows]`.
        weights: `[rows, fits]`.
        penalty: Weight of the coefficients' absolute values.
        start: Coefficients to start from, `[coefficients]`.

    Returns:
        Coefficients, `[coefficients, fits]`.

    Raises:
        DataError: A fit does not converge.
    """
    found = np.repeat(start[:, None], features.shape[2], axis=1)
    for _ in range(MAX_STEPS):
        probability = 1 / (1 + np.exp(-(features * found[:, None]).sum(axis=0)))
        gradient = (features * (weights * (probability - targets[:, None]))).sum(axis=1)
        bent = features * (weights * probability * (1 - probability))
        curvature = np.stack([(features * row).sum(axis=1) for row in bent])
        with np.errstate(invalid="ignore", divide="ignore"):  # a fit without an optimum is refused below
            step = _step(found, gradient, curvature, penalty)
        found = found + step
        if np.abs(step).max() < TOLERANCE:
            return found
    raise DataError(f"a length-controlled win rate did not converge in {MAX_STEPS} steps on a draw of the instructions")


def _step(found: np.ndarray, gradient: np.ndarray, curvature: np.ndarray, penalty: float) -> np.ndarray:
    """Return the steps to the minima of the L1-penalised quadratic models, found by coordinate descent."""
    step = np.zeros_like(found)
    for _ in range(MAX_STEPS):
        before = step.copy()
        for k in range(len(found)):
            slope = gradient[k] + (curvature[k] * step).sum(axis=0) - curvature[k, k] * step[k]
            aim = curvature[k, k] * found[k] - slope
            step[k] = np.sign(aim) * np.maximum(np.abs(aim) - penalty, 0) / curvature[k, k] - found[k]
        if np.abs(step - before).max() < TOLERANCE / 10:
            break
    return step.clip(-1, 1)
