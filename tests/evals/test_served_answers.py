"""Models behind servers answer the benchmarks, and judges look at it; what another server said counts for neither."""

import json
import logging

import pandas as pd
import pytest

from rao_kedro.config.servers import JudgeParameters, ServerParameters
from rao_kedro.errors import GenerationError
from rao_kedro.evals.judging import judge_answers
from rao_kedro.evals.parameters import BenchmarkParameters
from rao_kedro.evals.served_answers import main
from rao_kedro.evals.specs import ServedAnswersSpec
from rao_kedro.evals.tables import BenchmarkAnswerTable, JudgeUsageTable


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
            judged.append(judgments.tables["alpaca_eval_annotations"]["preference"].tolist())
            assert [request["model"] for request in requests] == ["served"] * 2 + ["judge"] * 2
            assert set(JudgeUsageTable.validate(judgments.usage)["identity"]) == {f"judge at {url}"}
    assert said == [{"one"}, {"two"}]
    assert judged[0] != judged[1]


def served(tmp_path, url, baseline, names="alpaca_eval", sources=None, **server):
    """Let a served model answer, and return its spec."""
    judge = JudgeParameters(model="judge", base_url=url)
    benchmarks = BenchmarkParameters(names=names, alpaca_eval=baseline, judge=judge, sources=sources or {})
    how = ServerParameters(model="served", base_url=url, max_retries=0, **server)
    spec = ServedAnswersSpec(method="api", benchmarks=benchmarks, workspace=tmp_path / "api", server=how)
    spec.workspace.mkdir(exist_ok=True)
    (spec.workspace / "spec.json").write_text(spec.model_dump_json())
    main(str(spec.workspace / "spec.json"))
    return spec


def test_a_request_that_a_served_model_refuses_leaves_its_item_unscored_and_the_rest_is_reported(
    tmp_path, baseline, caplog
):
    from chat_server import chat_server, refusal, reply

    (tmp_path / "gsm8k.jsonl").write_text(
        "".join(json.dumps({"question": q, "answer": "#### 2"}) + "\n" for q in ("1 + 1?", "Bomb?"))
    )

    def answer(request, number):
        asked = request["messages"][-1]["content"]
        if request["model"] == "judge":
            return reply(("m", {"m": -0.1, "M": -2.3}))
        if "Count to 3" in asked or "Bomb" in asked:
            return refusal(400, "flagged by our content filter")
        return reply(("The answer is 2.", {}), reasoning="1 + 1 is 2.")

    with chat_server(answer) as (url, requests):
        spec = served(tmp_path, url, baseline, "alpaca_eval gsm8k", {"gsm8k": {"path": str(tmp_path / "gsm8k.jsonl")}})
        answers = BenchmarkAnswerTable.validate(pd.read_parquet(spec.answers_path))
        judgments = judge_answers(answers, spec.benchmarks, tmp_path / "judgments").tables["alpaca_eval_annotations"]
        asked = [request["model"] for request in requests]
    assert asked.count("judge") == 1
    assert answers["answer"].tolist() == ["The answer is 2.", ""] and answers["thinking"].tolist() == [
        "1 + 1 is 2.",
        "",
    ]
    reason = "the server refused the request with HTTP status 400: flagged by our content filter"
    assert answers["unscored_reason"].tolist() == judgments["unscored_reason"].tolist() == ["", reason]
    assert judgments["preference"].isna().tolist() == [False, True]
    assert f"1 of 2 rows of alpaca_eval_annotations have no score, most often: {reason}" in caplog.text
    samples = pd.read_parquet(spec.downstream_samples_path)
    samples = samples[samples["metric"] == "accuracy"]
    assert samples["unscored_reason"].tolist() == ["", reason] and samples["correct"].tolist() == [True, False]
    scores = pd.read_parquet(spec.downstream_scores_path)
    assert scores.set_index("metric")["unparsed"].tolist() == [1, 1, 1]


def test_a_served_model_is_asked_as_its_parameters_say(tmp_path, baseline):
    from chat_server import chat_server, reply

    how = {"temperature": None, "max_tokens_field": "max_completion_tokens", "reasoning_effort": "low"}
    with chat_server(lambda request, number: reply(("one", {}))) as (url, requests):
        served(tmp_path, url, baseline, **how)
    assert {*requests[0]} == {"model", "messages", "authorization", "max_completion_tokens", "reasoning_effort"}
    assert requests[0]["max_completion_tokens"] == 2048


# What judging costs. Two methods whose answers are the same in part, both benchmarks of both orders.


@pytest.fixture
def answers(mt_bench):
    """Answers of two methods, to an instruction and to both turns of a question each, the first turns alike."""
    rows = []
    for method in ("sft", "rao"):
        rows.append((method, "alpaca_eval", "0", 1, "Count to 2.", f"1 {method}"))
        rows += [(method, "mt_bench", "81", turn, "Write.", f"{turn} {method if turn == 2 else ''}") for turn in (1, 2)]
    columns = ["method", "benchmark", "item_id", "turn", "prompt", "answer"]
    table = pd.DataFrame(rows, columns=columns).assign(thinking="", finish_reason="stop", unscored_reason="")
    return BenchmarkAnswerTable.validate(table)


@pytest.fixture
def mt_bench(tmp_path):
    templates = {"single-v1": "{question} {answer}", "single-v1-multi-turn": "{question_2} {answer_1} {answer_2}"}
    prompts = [{"name": n, "system_prompt": "Judge.", "prompt_template": t} for n, t in templates.items()]
    files = {
        "questions": [{"question_id": 81, "category": "writing", "turns": ["Write.", "Shorter."]}],
        "reference_answers": [],
        "judge_prompts": prompts,
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(tmp_path / f"{name}.jsonl") for name in files}


def verdict(request, number):
    from chat_server import reply

    usage = {"prompt_tokens": 1000, "completion_tokens": 100}
    if request["max_tokens"] == 1:
        return reply(("m", {"m": -0.1, "M": -2.3}), usage=usage)
    return reply(("[[7]]", {}), usage=usage)


def judge_with(url, baseline, mt_bench, **judge):
    prices = {"prompt_price": 10.0, "completion_price": 30.0}
    how = JudgeParameters(model="judge", base_url=url, concurrency=1, **(prices | judge))
    names = {"names": "alpaca_eval mt_bench", "alpaca_eval": baseline, "mt_bench": mt_bench}
    return BenchmarkParameters(**names, judge=how)


def test_requests_are_billed_once_and_what_is_reused_apart(tmp_path, baseline, mt_bench, answers, caplog):
    from chat_server import chat_server

    with chat_server(verdict) as (url, requests), caplog.at_level(logging.INFO):
        benchmarks = judge_with(url, baseline, mt_bench)
        usage = JudgeUsageTable.validate(judge_answers(answers, benchmarks, tmp_path / "kept").usage)
        again = judge_answers(answers, benchmarks, tmp_path / "kept").usage
    assert len(requests) == usage["asked"].sum() == 2 + 3  # both outputs; the first turns are one request
    assert usage["cost"].sum() == pytest.approx(5 * 0.013) and usage["reused"].tolist() == [0, 0, 0, 1]
    assert again["asked"].sum() == again["cost"].sum() == 0 and again["reused"].sum() == 6
    assert again["reused_cost"].sum() == pytest.approx(6 * 0.013)
    lines = [record.message for record in caplog.records if "judging with" in record.message]
    assert len(lines) == 2 and "judge: 5 requests, about " in lines[0] and "at most" in lines[0]
    assert lines[1] == "judging with judge: all answers are cached, no request is sent"


def test_a_judge_that_is_expected_to_cost_too_much_is_not_asked(tmp_path, baseline, mt_bench, answers):
    from chat_server import chat_server

    with chat_server(verdict) as (url, requests):
        benchmarks = judge_with(url, baseline, mt_bench, max_cost=0.01)
        with pytest.raises(GenerationError, match=r"5 requests.*cost about 0\.02.*more than max_cost 0\.01"):
            judge_answers(answers, benchmarks, tmp_path / "kept")
    assert not requests


def test_a_judge_that_costs_more_than_expected_is_stopped_and_the_next_run_goes_on(
    tmp_path, baseline, mt_bench, answers
):
    from chat_server import chat_server

    with chat_server(verdict) as (url, requests):
        benchmarks = judge_with(url, baseline, mt_bench, max_cost=0.035)
        with pytest.raises(GenerationError, match=r"3 requests have cost 0\.039, more than max_cost 0\.035"):
            judge_answers(answers, benchmarks, tmp_path / "kept")
        assert len(requests) == 3
        usage = judge_answers(answers, benchmarks, tmp_path / "kept").usage
    assert len(requests) == 5 and usage["asked"].sum() == 2 and usage["reused"].sum() == 4
