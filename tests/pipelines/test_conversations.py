"""Conversations through data engineering and fine-tuning: what is learned, what is kept out, what is stale."""

import json

import pandas as pd
import pytest
from projects import run

from rao_kedro.errors import DataError


def chat(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def given(path, **more):
    return {"data": {"conversations": {"train": {"path": str(path)}, "validation_share": 0.2}, **more}}


def test_fine_tuning_learns_conversations_without_the_prompts_of_the_evaluation(project):
    params = given(project / "chats.jsonl")
    rows = [chat(f"say {i}", f"{i} it is", "and again", f"{i} {i}") for i in range(30)]
    (project / "chats.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    run(project, "data_engineering", params=params)
    evaluated = pd.read_parquet(project / "data/test/03_primary/evaluation_prompts.parquet")["messages"][0]
    rows += [chat("hello", "hi", evaluated[-1]["content"], "leaked"), chat("a", "")]
    (project / "chats.jsonl").write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    run(project, "data_engineering", "supervised_finetuning", params=params)
    data = project / "data/test"
    quarantined = pd.read_parquet(data / "05_model_input/quarantined_conversations.parquet")
    assert list(quarantined["reason"]) == ["empty_turn", "held_out_prompt_in_train"]
    tokenized = pd.read_parquet(data / "05_model_input/tokenized_conversations.parquet")
    assert (
        len(tokenized) == 30 and set(tokenized["split"]) == {"train", "validation"} and set(tokenized["turns"]) == {2}
    )
    report = pd.read_csv(data / "08_reporting/conversation_report.csv").set_index(["section", "metric"])["value"]
    assert int(report["train conversations", "assistant turns"]) == 2 * (tokenized["split"] == "train").sum()
    log = pd.read_csv(data / "07_model_output/sft_training_log.csv")
    assert log["loss"].dropna().iloc[-1] < log["loss"].dropna().iloc[0] and log["eval_loss"].notna().any()
    assert "logps_assistant" in log


def test_where_no_conversation_is_left_the_quarantine_and_the_report_say_why(project):
    (project / "bad.jsonl").write_text(json.dumps({"messages": chat("unanswered")}))
    with pytest.raises(DataError, match=r"no training conversation is left; .*no_assistant_turn 1 times, "):
        run(project, "data_engineering", params=given(project / "bad.jsonl"))
    table = pd.read_parquet(project / "data/test/05_model_input/quarantined_conversations.parquet")
    assert list(table["reason"]) == ["no_assistant_turn"]
    report = pd.read_csv(project / "data/test/08_reporting/conversation_report.csv")
    assert report.to_numpy().tolist() == [["quarantined", "no_assistant_turn", 1], ["quarantined", "all", 1]]
