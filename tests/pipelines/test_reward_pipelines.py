"""Rewards are chosen by name, studied (Table 1 of the paper) and measured on a benchmark; the data are made once."""

import json

import pandas as pd
import pytest
from projects import open_project, run

FORMS = [form for form in ("base", "sft", "dpo_implicit") for _ in ("small", "large")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with an SFT model, and responses annotated by a combined reward."""
    chosen = {
        "reward": {
            "name": "combined",
            "parameters": {"parts": [{"name": "bradley_terry"}, {"name": "rules", "weight": 2.0}]},
        },
        "length_penalty": 0.001,
        "clip": 5.0,
        "normalisation": "quantile",
    }
    with open_project(tmp_path_factory.mktemp("rewards")) as directory:
        run(directory, "data_engineering")
        run(directory, "supervised_finetuning")
        run(directory, "reward_modeling", params={"reward_modeling": chosen})
        yield directory


def test_a_combined_reward_is_transformed_as_asked(project):
    annotated = pd.read_parquet(project / "data/test/05_model_input/reward_annotated.parquet")
    assert annotated["reward_model"][0].startswith("weighted: 1 (") and "2 (rules " in annotated["reward_model"][0]
    assert [made["name"] for made in json.loads(annotated["reward_transforms"][0])] == [
        "length_penalty",
        "clip",
        "quantile",
    ]
    assert all(0 < reward < 1 for rewards in annotated["rewards"] for reward in rewards)
    report = pd.read_csv(project / "data/test/08_reporting/reward_report.csv").set_index(["split", "metric"])["value"]
    assert report["train", "after_length_penalty_mean"] < report["train", "raw_reward_mean"]
    assert abs(report["train", "after_quantile_mean"] - 0.5) < 1e-6
    grid = pd.read_csv(project / "data/test/08_reporting/reward_target_grid.csv")
    assert len(grid) and grid["chosen_target_is_up"].between(0, 1).all()


def test_the_reward_model_study_measures_every_form(project):
    data = project / "data/test"
    run(project, "reward_model_study")
    table = pd.read_csv(data / "08_reporting/reward_model_study.csv")
    assert list(table["form"]) == ["longer response", *FORMS]
    annotated = pd.read_parquet(data / "05_model_input/reward_annotated.parquet")
    assert (table["n"] == annotated["split"].eq("test").sum()).all() and table["accuracy"].between(0, 1).all()


def test_a_reward_benchmark_is_read_from_a_file_and_its_bad_row_quarantined(project):
    rows = [{"id": i, "prompt": f"p{i}", "chosen": "yes", "rejected": "no", "subset": "hep-go"} for i in range(3)]
    (project / "benchmark.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": 4}]))
    sources = {"rewardbench": {"path": str(project / "benchmark.jsonl")}}
    run(project, "reward_benchmarks", params={"reward_benchmarks": {"sources": sources}})
    scores = pd.read_csv(project / "data/test/08_reporting/reward_benchmarks.csv").set_index(["section", "subset"])
    assert scores.loc[("Reasoning", "hep-go"), "n"] == 3
    assert len(pd.read_parquet(project / "data/test/07_model_output/reward_benchmark_quarantine.parquet")) == 1
