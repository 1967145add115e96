"""The summary of a run."""

from pathlib import Path

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro_datasets.pandas import CSVDataset
from kedro_datasets.text import TextDataset

from rao_kedro.datasets import CheckpointDataset, TableDataset
from rao_kedro.framework.summary import summary

BOARD = pd.DataFrame(
    {
        "method": ["sft", "rao"],
        "rule_score": [0.583, 0.652],
        "rule_score_gain": [0.0, 0.069],
        "rule_score_gain_low": [0.0, 0.026],
        "rule_score_gain_high": [0.0, 0.112],
        "reward_gain": [0.0, -0.2],
        "reward_gain_low": [0.0, float("nan")],
        "reward_gain_high": [0.0, float("nan")],
        "kl_to_reference": [0.0, 0.97],
    }
)


def catalog_of(**datasets):
    return DataCatalog(datasets), Pipeline([Node(lambda: None, None, list(datasets), name="all")])


@pytest.fixture
def quarantine(tmp_path):
    dataset = TableDataset(filepath=str(tmp_path / "data/quarantined.parquet"))
    reasons = ["equal_ratings"] * 2 + ["empty_response"]
    dataset.save(pd.DataFrame({"reason": reasons}))
    return dataset


def test_a_study_is_summed_up_by_its_leaderboard_quarantine_report_and_models(tmp_path, quarantine):
    board = CSVDataset(filepath=str(tmp_path / "data/leaderboard.csv"))
    board.save(BOARD)
    datasets = {
        "leaderboard": board,
        "quarantined_rows": quarantine,
        "report": TextDataset(filepath=str(tmp_path / "data/report.html")),
        "rao.policy": CheckpointDataset(filepath=str(tmp_path / "data/models/rao")),
        "figure": MemoryDataset(),
    }
    catalog, pipeline = catalog_of(**datasets)
    assert list(summary(pipeline, catalog, tmp_path)) == [
        "",
        "method  rule score  gain over sft          reward gain  KL",
        "sft     0.583                                           0.000",
        "rao     0.652       +0.069 [0.026, 0.112]  -0.20        0.970",
        "",
        "quarantined rows: 3 (equal_ratings 2, empty_response 1)",
        "report: data/report.html",
        "models: data/models",
    ]


def test_where_no_rule_can_be_checked_the_leaderboard_is_shown_without(tmp_path):
    board = CSVDataset(filepath=str(tmp_path / "leaderboard.csv"))
    board.save(BOARD.assign(rule_score=float("nan"), rule_score_gain=float("nan")))
    catalog, pipeline = catalog_of(leaderboard=board)
    assert list(summary(pipeline, catalog, tmp_path))[1] == "method  reward gain  KL"


def test_a_pipeline_without_a_report_says_what_it_made_and_where(tmp_path):
    datasets = {f"{name}.policy": CheckpointDataset(filepath=str(tmp_path / name)) for name in "abcdefghij"}
    catalog, pipeline = catalog_of(**datasets, unkept=MemoryDataset())
    elsewhere = Path("/elsewhere")
    lines = list(summary(pipeline, catalog, tmp_path))
    assert lines[0] == "a.policy: a" and lines[-1] == "and 2 more: i.policy, j.policy" and len(lines) == 9
    assert next(summary(pipeline, catalog, elsewhere)) == f"a.policy: {tmp_path / 'a'}"


def test_benchmarks_are_shown_methods_side_by_side(tmp_path):
    scores = CSVDataset(filepath=str(tmp_path / "scores.csv"))
    rows = [("sft", "gsm8k", "accuracy", 12.34), ("rao", "gsm8k", "accuracy", 20.0), ("rao", "mt_bench", "score", 7.06)]
    scores.save(pd.DataFrame(rows, columns=["method", "benchmark", "metric", "value"]))
    catalog, pipeline = catalog_of(benchmark_scores=scores)
    assert list(summary(pipeline, catalog, tmp_path))[:4] == [
        "benchmark  metric    sft   rao",
        "gsm8k      accuracy  12.3  20.0",
        "mt_bench   score           7.1",
        "",
    ]
