"""Models behind servers answer the benchmarks, and judges look at it; what another server said counts for neither."""

import json
from pathlib import Path

import pandas as pd
import pytest

from rao_kedro.evals.judging import judge_answers
from rao_kedro.evals.served_answers import main
from rao_kedro.schemas.benchmarks import BenchmarkParameters, JudgeParameters, ServedAnswersSpec, ServerParameters
from rao_kedro.schemas.tables import JudgeUsage


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "inference"))


@pytest.fixture
def baseline(tmp_path):
    rows = [{"instruction": f"Count to {i}.", "output": "1", "generator": "base"} for i in (2, 3)]
    (tmp_path / "baseline.json").write_text(json.dumps(rows))
    return {"baseline": str(tmp_path / "baseline.json"), "instruction_difficulty": None, "gamed": None}


def test_another_server_with_a_model_of_the_same_name_answers_and_judges_itself(tmp_path, baseline):
    from chat_server import chat_server, reply

    said, judged = [], []
    for text, token in (("one", "m"), ("two", "M")):
        answer = lambda request, number, text=text, token=token: reply(  # noqa: E731
            (text, {}) if request["model"] == "served" else (token, {token: 0.0}),
            finish_reason="length" if text == "two" else "stop",
        )
        with chat_server(answer) as (url, requests):
            judge = JudgeParameters(model="judge", base_url=url)
            benchmarks = BenchmarkParameters(names="alpaca_eval", alpaca_eval=baseline, judge=judge)
            server = ServerParameters(model="served", base_url=url)
            spec = ServedAnswersSpec(method="api", benchmarks=benchmarks, workspace=tmp_path / "api", server=server)
            spec.workspace.mkdir(exist_ok=True)
            (spec.workspace / "spec.json").write_text(spec.model_dump_json())
            main(str(spec.workspace / "spec.json"))
            answers = pd.read_parquet(spec.answers_path)
            judgments = judge_answers(answers, benchmarks, tmp_path / "judgments")
            said.append(set(answers["answer"]))
            assert answers["finish_reason"].tolist() == ["length" if text == "two" else "stop"] * 2
            judged.append(judgments.alpaca_eval["preference"].tolist())
            assert [request["model"] for request in requests] == ["served"] * 2 + ["judge"] * 2
            assert set(JudgeUsage.validate(judgments.usage)["identity"]) == {f"judge at {url}"}
    assert said == [{"one"}, {"two"}]
    assert judged[0] != judged[1]
