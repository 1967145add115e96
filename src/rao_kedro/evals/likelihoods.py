"""How training moved the likelihood of chosen and rejected responses, from training logs."""

import pandas as pd

COLUMNS = [
    "log_ratio_chosen",
    "log_ratio_rejected",
    "rewards_chosen",
    "rewards_rejected",
    "reward_correlation",
    "target_rmse",
    "kl_to_reference",
    "kl_to_reference_stderr",
]


def likelihood_summary(logs: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return a row per run: its last evaluation on the validation groups.

    Args:
        logs: Training logs with a column `run`; rows of evaluations have values in the columns `eval_*`.
        n: Number of validation groups.

    Returns:
        Columns `run, n`; `gap`, the chosen log-ratio minus the rejected one, in nats; the columns of `COLUMNS` (nats,
        or reward units for `rewards_*`); and the share `chosen_likelihood_fell` with its 95 % Wilson interval.
    """
    from scipy.stats import binomtest  # a second's import, which `kedro` commands need not pay

    rows = []
    for run, log in logs.groupby("run", sort=False):
        last = log[log["eval_loss"].notna()].iloc[-1]
        fell = float(last["eval_chosen_likelihood_fell"])
        interval = binomtest(round(fell * n), n).proportion_ci(method="wilson")
        measured = {name: last.get(f"eval_{name}", float("nan")) for name in COLUMNS}
        rows.append(
            {
                "run": run,
                "n": n,
                **measured,
                "gap": measured["log_ratio_chosen"] - measured["log_ratio_rejected"],
                "chosen_likelihood_fell": fell,
                "chosen_likelihood_fell_low": interval.low,
                "chosen_likelihood_fell_high": interval.high,
            }
        )
    return pd.DataFrame(rows)
