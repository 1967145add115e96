"""Adding a judged benchmark takes a class and its registration, and nothing else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import tiny_benchmark
from chat_server import chat_server, reply

import rao_kedro

PACKAGES = re.compile(r"import.*\b(alpaca_eval|mt_bench)\b|evals\.(alpaca_eval|mt_bench)\b")


def test_a_third_benchmark_goes_from_prompts_to_the_report_with_no_other_place_touched(tmp_path):
    (tmp_path / "questions.json").write_text(json.dumps([{"text": "Greet me."}, {"text": "Thank me."}]))
    judged = {"Polite? Hello": "9", "Polite? Thanks": "I cannot say"}

    def answer(request, number):
        asked = request["messages"][-1]["content"]
        if request["model"] == "judge":
            return reply((judged[asked], {}))
        return reply(("Hello" if asked == "Greet me." else "Thanks", {}))

    with chat_server(answer) as (url, requests):
        command = [sys.executable, tiny_benchmark.__file__, str(tmp_path), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted((request["model"], request["max_tokens"]) for request in requests) == [
        ("judge", 4),
        ("judge", 4),
        ("served", 12),
        ("served", 12),
    ]
    data = tmp_path / "data"
    row = pd.read_csv(data / "08_reporting/benchmark_scores.csv").set_index("metric").loc["politeness"]
    assert row[["method", "benchmark", "value", "n", "unscored", "judge"]].tolist() == [
        "api",
        "tiny",
        9.0,
        1,
        1,
        "judge",
    ]
    assert 0 <= row["low"] < 9 < row["high"] <= 10  # a single value has an interval, since scores have bounds
    assert pd.read_parquet(data / "07_model_output/tiny_judgments.parquet")["score"].dropna().tolist() == [9.0]
    assert pd.read_parquet(data / "07_model_output/judge_usage.parquet")["benchmark"].tolist() == ["tiny"]
    manifest = json.loads((data / "01_raw/benchmarks/manifest.json").read_text())
    assert [*manifest] == ["tiny.questions"] and manifest["tiny.questions"]["rows"] == 2
    assert "Politeness" in json.loads((data / "08_reporting/tiny_figure.json").read_text())["layout"]["title"]["text"]
    report = (data / "08_reporting/benchmark_report.html").read_text()
    assert "9 of 10 for politeness" in report and "tiny politeness" in report and "<h2>Politeness</h2>" in report


def test_only_the_registry_imports_the_packages_of_benchmarks():
    source = Path(rao_kedro.__file__).parent
    importing = {path for path in source.rglob("*.py") if PACKAGES.search(path.read_text())}
    inside = {path for package in ("alpaca_eval", "mt_bench") for path in (source / "evals" / package).iterdir()}
    assert importing - inside == {source / "evals/registry.py"}
