"""The bootstrap of AlpacaEval's length-controlled win rate, against the package's own fit and published models."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from assets import alpaca_annotations, alpaca_table
from sklearn.linear_model import LogisticRegression

from rao_kedro.errors import DataError
from rao_kedro.evals.alpaca_eval.benchmark import AlpacaEval, LengthControl
from rao_kedro.evals.alpaca_eval.length_control import MAX_PENALTY, fit_logistic, length_controlled_resamples
from rao_kedro.evals.alpaca_eval.win_rates import fit_length_control, import_package, length_controlled_win_rate
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.results import Results
from rao_kedro.evals.scores import benchmark_scores
from rao_kedro.evals.tables import BenchmarkAnswerTable, BenchmarkScoreTable

N = 60
RNG = np.random.default_rng(0)
DIFFICULTY = pd.Series(RNG.normal(size=N))
GAMED = pd.DataFrame(
    {"preference": RNG.uniform(size=N), "std_delta_len": RNG.normal(size=N), "instruction_difficulty": DIFFICULTY}
)
CONTROL = LengthControl(DIFFICULTY.rename("instruction_difficulty").rename_axis("index").reset_index(), GAMED)


class Controlled(AlpacaEval):
    length_control = CONTROL


def score(annotated):
    """Return scores of runs from their annotations."""
    others = [schema.empty() for schema in (DownstreamScoreTable, DownstreamSampleTable, BenchmarkAnswerTable)]
    runs = {run: Results({"alpaca_eval_annotations": table}, *others) for run, table in annotated.items()}
    return BenchmarkScoreTable.validate(benchmark_scores(runs, [Controlled()]))


def annotations(method="rao", strength=0.0, seed=1):
    """Preferences that follow lengths and difficulties; of some instructions the judge says nothing."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 200, (2, N))
    logits = strength + 0.01 * (lengths[1] - lengths[0]) + DIFFICULTY + rng.normal(size=N)
    preference = 1 + 1 / (1 + np.exp(-logits))
    preference[::13] = np.nan
    return pd.DataFrame(
        {
            "instruction": [f"i{k}" for k in range(N)],
            "output_1": ["x" * k for k in lengths[0]],
            "output_2": ["y" * k for k in lengths[1]],
            "generator_1": "base",
            "generator_2": method,
            "annotator": "gpt",
            "preference": preference,
            "unscored_reason": "",
        }
    )


def test_a_draw_is_what_the_package_fits_to_the_drawn_instructions():
    table = annotations()
    model, *_ = fit_length_control(table, DIFFICULTY, GAMED)
    found = length_controlled_resamples(table, DIFFICULTY, GAMED, seed=3, resamples=5)
    for counts, win_rate in zip(np.random.default_rng(3).multinomial(N, [1 / N] * N, 5), found, strict=True):
        drawn = table.loc[np.repeat(table.index, counts)]
        _, train, test = fit_length_control(drawn, DIFFICULTY, GAMED)
        known = train["preference"].notna()
        with sklearn.config_context():
            theirs = import_package("metrics.glm_winrate").fit_LogisticRegressionCV(
                train.drop(columns="weight")[known],
                "preference",
                sample_weight=train.loc[known, "weight"],
                n_splits=0,  # the C below instead of cross-validation
                C=max(model.C_[0], 1 / MAX_PENALTY),
                tol=1e-8,
            )
        assert win_rate == pytest.approx(100 * theirs.predict_proba(test)[:, 1].mean(), abs=0.01)


def test_a_strong_penalty_leaves_out_coefficients_as_liblinear_does():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(80, 3)) * [1, 1, 0.05], rng.uniform(size=80)
    weights = rng.uniform(0.5, 2, size=80)
    found = fit_logistic(features.T[:, :, None], targets, weights[:, None], 1.5, np.ones(3))[:, 0]
    theirs = LogisticRegression(
        l1_ratio=1, solver="liblinear", fit_intercept=False, C=1 / 1.5, tol=1e-10, max_iter=1000
    ).fit(
        np.concatenate([features, features]),
        [1] * 80 + [0] * 80,
        sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]),
    )
    assert found == pytest.approx(theirs.coef_[0], abs=1e-4) and found[2] == 0 and found[0] != 0


def test_a_model_as_good_as_the_baseline_has_an_interval_too():
    """Cross-validation penalises all coefficients to 0 here, so that every draw would give 50 %."""
    table = annotations()
    table["preference"] = np.random.default_rng(2).beta(0.3, 0.3, N) + 1
    assert fit_length_control(table, DIFFICULTY, GAMED)[0].coef_[0].tolist() == [0, 0, 0]
    low, high = np.quantile(length_controlled_resamples(table, DIFFICULTY, GAMED, seed=0), [0.025, 0.975])
    error = 100 * table["preference"].std() / N**0.5
    assert low < 50 < high and 2.5 * error < high - low < 6 * error


@pytest.mark.parametrize("known", [0, 1])
def test_too_few_preferences_leave_the_length_controlled_win_rate_out(known):
    table = annotations().reset_index()
    table.loc[known + 1 :, "preference"] = np.nan
    scores = score({"rao": table}).set_index("metric")
    assert scores.loc["win_rate", ["n", "unscored"]].tolist() == [known, N - known]
    assert "length_controlled_win_rate" not in scores.index


def test_a_fit_without_an_optimum_says_so():
    with pytest.raises(DataError, match="did not converge in 100 steps"):
        fit_logistic(np.ones((1, 5, 1)), np.ones(5), np.ones((5, 1)), 0.0, np.zeros(1))


@pytest.mark.parametrize(
    ("model", "half"),
    [
        ("claude-2", 3.43),
        ("FuseChat-Llama-3.2-1B-Instruct", 2.71),
        ("gpt-3.5-turbo-1106_verbose", 3.11),
        ("vicuna-7b-v1.5", 1.87),
    ],
)
def test_the_interval_of_a_published_model_is_as_wide_as_the_sandwich_estimate(model, half):
    """`half` is 1.96 standard errors by the sandwich estimator, 2 to 3 times what the package's own error gives."""
    table = alpaca_annotations(model)
    difficulty, gamed = map(alpaca_table, ("instruction_difficulty_recovered.csv", "gamed_surrogate.csv"))
    fitted, train, test = fit_length_control(table, difficulty, gamed)
    features, targets, weights = (part.to_numpy() for part in (train.iloc[:, :3], train["preference"], train["weight"]))
    fit = 1 / (1 + np.exp(-features @ fitted.coef_[0]))
    won = 1 / (1 + np.exp(-test.to_numpy() @ fitted.coef_[0]))
    curvature = features.T @ (features * (weights * fit * (1 - fit))[:, None])
    slope = test.to_numpy().T @ (won * (1 - won)) / len(won)
    influence = (features * (weights * (targets - fit))[:, None])[-len(won) :] @ np.linalg.solve(curvature, slope)
    sandwich = 196 * np.sqrt(np.square(influence + (won - won.mean()) / len(won)).sum())
    assert sandwich == pytest.approx(half, abs=0.02)
    low, high = np.quantile(
        length_controlled_resamples(table, difficulty, gamed, seed=0, resamples=400), [0.025, 0.975]
    )
    assert (high - low) / 2 == pytest.approx(sandwich, rel=0.12)
    package = length_controlled_win_rate(table, difficulty, gamed)
    assert low < package["length_controlled_winrate"] < high
    assert 1.96 * package["lc_standard_error"] < 0.6 * sandwich


def test_the_difference_of_two_models_is_paired_by_instruction_and_has_the_packages_error_under_its_name():
    """Two models that are judged nearly alike differ by far less than either's own interval is wide."""
    sft = annotations("sft").reset_index()
    better = sft.assign(generator_2="rao", preference=(sft["preference"] + 0.05).clip(upper=2))
    scores = score({"sft": sft, "rao": better, "rao_seed_1": better}).set_index(["method", "metric"])
    row = scores.loc[("rao", "length_controlled_win_rate")]
    assert 0 < row["vs_sft_low"] < row["vs_sft"] < row["vs_sft_high"]
    assert row["vs_sft_high"] - row["vs_sft_low"] < 0.2 * (row["high"] - row["low"])
    alone = score({"rao": better}).set_index("metric").loc["length_controlled_win_rate"]
    assert (row["low"], row["high"], row["seeds"]) == pytest.approx((alone["low"], alone["high"], 2))
    of_package = length_controlled_win_rate(better.set_index("index"), *CONTROL)["lc_standard_error"]
    error = scores.loc[("rao", "lc_standard_error")]
    assert error["value"] == pytest.approx(of_package) and np.isnan(error["low"]) and error["unscored"] == 10
    assert scores.loc[("sft", "length_controlled_win_rate"), ["vs_sft", "vs_sft_low"]].tolist() == [0, 0]
