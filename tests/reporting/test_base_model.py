"""The report on a base model before and after fine-tuning."""

import pandas as pd
import pytest

from rao_kedro.errors import DataError
from rao_kedro.evals.leaderboard import leaderboard
from rao_kedro.reporting.base_model import main


def generations(rule_scores, reasons):
    rows = [
        {
            "prompt_id": f"p{i}",
            "sample": 0,
            "prompt": f"question {i}",
            "response": f"a|{score}\nb",
            "n_tokens": 3,
            "finish_reason": reason,
            "rule_score": score,
            "reward": score,
            "reward_failure": None,
            "logp": -10.0,
            "reference_logp": -10.0,
        }
        for i, (score, reason) in enumerate(zip(rule_scores, reasons, strict=True))
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def root(tmp_path):
    output, reporting = tmp_path / "07_model_output", tmp_path / "08_reporting"
    output.mkdir()
    reporting.mkdir()
    scored = {
        "base": generations([0.0, 0.5, 1.0, 0.0], ["length", "length", "length", "stop"]),
        "sft": generations([1.0, 0.5, 1.0, 1.0], ["stop", "stop", "stop", "length"]),
    }
    held_out = {name: pd.DataFrame({"logps": [[-5.0]], "reference_logps": [[-5.0]]}) for name in scored}
    leaderboard(scored, held_out, seed=0).to_csv(reporting / "leaderboard.csv", index=False)
    for name, table in scored.items():
        table.to_parquet(output / f"{name}_scored_generations.parquet")
    log = {"step": [0, 1, 2, 4], "loss": [None, 3.0, 2.5, 2.0], "eval_loss": [3.25, None, 2.5, 2.75]}
    pd.DataFrame(log).to_csv(output / "sft_training_log.csv", index=False)
    return tmp_path


def test_the_report_says_what_fine_tuning_changed(root, capsys):
    main(str(root))
    said = capsys.readouterr().out
    assert "| held-out loss, nats per token | 3.250 | 2.500 (step 2) |" in said
    assert "| responses that end by themselves | 25.0 % [" in said and "| 75.0 % [" in said
    assert "| rule score | 0.375 [" in said and "| 0.875 [" in said
    # two wins and two ties of four
    assert "fine-tuning wins 75.0 % [" in said and "n = 4 prompts" in said
    assert said.count("| base | a\\|") == said.count("| sft | a\\|") == 3 and "\\nb |" in said


def test_a_run_without_the_base_model_is_refused(root):
    (root / "07_model_output/base_scored_generations.parquet").unlink()
    with pytest.raises(DataError, match=r"base_scored_generations\.parquet is not there: run an environment with"):
        main(str(root))
