"""Preference data of users: real pairs through the whole chain, reported files, and data of which nothing is left."""

import json
import shutil

import pandas as pd
import pytest
from assets import ASSETS
from projects import run

from rao_kedro.errors import DataError

ULTRAFEEDBACK, REPORTED = ASSETS / "ultrafeedback", ASSETS / "reported_inputs"


def test_the_same_chain_runs_on_real_ultrafeedback_rows(project):
    params = {
        "data": {
            "source": "preferences",
            "max_prompt_tokens": 600,
            "max_response_tokens": 800,
            "preferences": {
                split: {"path": str(ULTRAFEEDBACK / f"{name}.jsonl.gz"), "max_rows": rows}
                for split, name, rows in (("train", "train", 60), ("test", "eval", 30))
            },
        },
        "evaluation": {"generation": {"max_model_len": 2048}},
    }
    params["supervised_finetuning"] = {"training": {"max_tokens_per_batch": 2400}}
    params["reward_modeling"] = {"reward": {"name": "ratings"}, "training": {"max_tokens_per_batch": 2400}}
    params["alignment"] = {m: {"training": {"max_tokens_per_batch": 2400}} for m in ("rao", "dpo")}
    params["reference"] = {"max_tokens_per_batch": 2400}
    params["evaluation"]["max_tokens_per_batch"] = 2400
    run(project, params=params)
    quarantined = pd.read_parquet(project / "data/test/03_primary/quarantined_rows.parquet")
    groups = pd.read_parquet(project / "data/test/05_model_input/tokenized_groups.parquet")
    assert len(groups) + len(quarantined) == 90 and "equal_ratings" in set(quarantined["reason"])
    assert len(pd.read_csv(project / "data/test/08_reporting/leaderboard.csv")) == 3
    annotated = pd.read_parquet(project / "data/test/05_model_input/reward_annotated.parquet")
    assert set(annotated["reward_model"]) == {"ratings"}


def test_a_folder_of_all_reported_inputs_ends_no_run_and_loses_no_row(project):
    shutil.copytree(REPORTED, project / "reported", ignore=shutil.ignore_patterns("ok_*", "*.md"))
    paths = {"train": {"path": "reported"}, "test": {"path": str(REPORTED / "ok_test.jsonl")}}
    run(project, "data_engineering", params={"data": {"source": "preferences", "preferences": paths}})
    primary = project / "data/test/03_primary"
    groups, quarantined = (pd.read_parquet(primary / f"{n}.parquet") for n in ("preference_groups", "quarantined_rows"))
    sources = set(" + ".join([*groups["source"], *quarantined["source"]]).split(" + "))
    rows = {file.name: 8 for file in (project / "reported").iterdir()}
    rows |= {"07_long_field.csv.gz": 9, "12_one_response_per_row.jsonl": 16, "13_unpaired.jsonl": 16}
    assert sources >= {f"{name}:{i + 1}" for name, n in rows.items() for i in range(n)}
    assert {"tool_call", "bad_dialogue", "empty_response", "invalid_text", "equal_ratings", "response_too_long"} <= set(
        quarantined["reason"]
    )
    tokenized = pd.read_parquet(project / "data/test/05_model_input/tokenized_groups.parquet")
    assert set(tokenized["responses"].map(len)) == {2, 4} and (tokenized["split"] == "train").sum() > 40


def test_where_no_row_is_left_the_quarantine_and_the_report_say_why(project):
    bad, good = ({"prompt": "Hi?", "chosen": "a", "rejected": text} for text in ("\u200b", "b"))
    for name, row in (("train", bad), ("test", good), ("long", {**good, "prompt": "Hi? " * 300})):
        (project / f"{name}.jsonl").write_text(json.dumps(row))

    def data(train, test):
        return {"data": {"source": "preferences", "preferences": {"train": {"path": train}, "test": {"path": test}}}}

    def saved():
        table = pd.read_parquet(project / "data/test/03_primary/quarantined_rows.parquet")
        report = pd.read_csv(project / "data/test/08_reporting/data_report.csv").set_index("section").loc["quarantined"]
        return list(table["reason"]), dict(zip(report["metric"], report["value"], strict=True))

    with pytest.raises(
        DataError, match=r"no prompt group is left for train; .*empty_response 1 times, .*train\.jsonl:1"
    ):
        run(project, "data_engineering", params=data("train.jsonl", "test.jsonl"))
    assert saved() == (["empty_response"], {"empty_response": 1, "all": 1})
    mixed = [bad, {**good, "prompt": "Yo?"}, {**good, "prompt": "Yo? " * 300}]
    (project / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    with pytest.raises(DataError, match=r"left for test after tokenising; .*prompt_too_long 2 times, .*long\.jsonl:1"):
        run(project, "data_engineering", params=data("mixed.jsonl", "long.jsonl"))
    assert saved() == (
        ["empty_response", "prompt_too_long", "prompt_too_long"],
        {"prompt_too_long": 2, "empty_response": 1, "all": 3},
    )
