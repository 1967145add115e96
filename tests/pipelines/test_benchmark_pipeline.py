"""Policies are measured on benchmarks by a judge's server and by the harness. One evaluation, which the tests read."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pandas as pd
import pytest
from chat_server import chat_server, refusal, reply
from projects import open_project, run

from rao_kedro.evals import locations, policy_responses
from rao_kedro.evals.downstream import named_tasks
from rao_kedro.generation import generators
from rao_kedro.identity import path_hash


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation on benchmarks made.

    Attributes:
        data: The project's data.
        url: The address of the judges' server, which is gone now.
        parameters: The parameters `evaluation.benchmarks`.
        requests: What the server was asked: how often, by model and length limit.
        opened: How often each file of a benchmark was opened.
        engines: The `max_model_len` of every engine that was started, those of later runs too.
        scores: The scores, by method, benchmark and metric.
        report: The report.
    """

    data: Path
    url: str
    parameters: dict[str, Any]
    requests: Counter
    opened: Counter
    engines: list[int]
    scores: pd.DataFrame
    report: str

    @property
    def project(self):
        return self.data.parents[1]

    def read(self, name):
        path = self.data / name
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)

    def run_again(self, **changed):
        benchmarks = self.parameters | changed
        run(self.project, "evaluation", params={"methods": "rao", "evaluation": {"benchmarks": benchmarks}})


def answer(request, number):
    """Answer as a judge that prefers the first response, or as a served model."""
    asked = request["messages"][-1]["content"]
    if request["model"] == "served":
        return reply(("The answer is 2.", {}))
    if request["model"] == "rule" and "Name a dog." in asked:
        return refusal(400, "flagged by our content filter")
    if request["max_tokens"] == 1:
        return reply(("m", {"m": -0.2, "M": -1.8}))
    return reply(("Fine. [[7]]" if "Which" not in asked else "[[A]]", {}))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    gsm8k = Path(lm_eval.tasks.__file__).parent / "gsm8k"  # an index of all the harness's tasks takes ten seconds
    few = named_tasks.TaskManager(include_path=gsm8k, include_defaults=False)
    engines, opened, open_file = [], Counter(), locations.open_location

    def make_generator(*model, **options):
        engines.append(options["max_model_len"])
        return generators.make_generator(*model, **options)

    def count_opened(location, *options):
        opened[Path(location)] += 1
        return open_file(location, *options)

    with open_project(tmp_path_factory.mktemp("benchmarks")) as project, pytest.MonkeyPatch.context() as patched:
        patched.setattr(named_tasks, "TaskManager", lambda: few)
        patched.setattr(policy_responses.main, "__defaults__", (make_generator,))
        patched.setattr(locations, "open_location", count_opened)
        for pipeline in ("data_engineering", "supervised_finetuning", "reward_modeling", "alignment"):
            run(project, pipeline, params={"methods": "rao"})
        with chat_server(answer) as (url, requests):
            parameters = write_benchmark_files(project) | {
                "judge": {"model": "rule", "base_url": url, "max_attempts": 1},
                "second_judge": {"model": "other", "base_url": url},
                "served_models": {"api": {"model": "served", "base_url": url}},
            }
            run(project, "evaluation", params={"methods": "rao", "evaluation": {"benchmarks": parameters}})
        asked = Counter((request["model"], request["max_tokens"]) for request in requests)
        data = project / "data/test"
        scores = pd.read_csv(data / "08_reporting/benchmark_scores.csv").set_index(["method", "benchmark", "metric"])
        report = (data / "08_reporting/benchmark_report.html").read_text()
        yield Evaluation(data, url, parameters, asked, Counter(opened), engines, scores, report)


def test_each_model_starts_one_engine(evaluation):
    assert len(evaluation.engines) == 2  # sft and rao


def test_files_of_benchmarks_are_read_once_for_all_models_and_kept_with_their_hashes(evaluation):
    files = ("baseline.json", "question.jsonl", "gpt-4.jsonl", "judge_prompts.jsonl")
    assert {name: evaluation.opened[evaluation.project / name] for name in files} == dict.fromkeys(files, 1)
    manifest = json.loads((evaluation.data / "01_raw/benchmarks/manifest.json").read_text())
    assert {name: entry["rows"] for name, entry in manifest.items()} == {
        "alpaca_eval.baseline": 3,
        "mt_bench.questions": 2,
        "mt_bench.reference_answers": 1,
        "mt_bench.judge_prompts": 8,
        "sources.gsm8k": 1,
        "sources.arc_easy": 2,
    }
    record = json.loads((evaluation.data / "07_model_output/.made_from/rao_generations.parquet.json").read_text())
    assert record["inputs"]["benchmark_files"] == path_hash(evaluation.data / "01_raw/benchmarks")


def test_a_served_model_answers_every_prompt_once(evaluation):
    """AlpacaEval and MT-Bench's turns; the chains of thought; GSM8K as the harness asks it."""
    assert [evaluation.requests["served", n] for n in (8, 16, 256)] == [3 + 2 * 2, 3, 1]


def test_each_judge_is_asked_once_for_each_pair_in_each_order(evaluation):
    """MT-Bench is graded, and compared in both orders with SFT. What two models answer alike is judged once."""
    asked = evaluation.requests
    assert 3 * 2 * 2 <= asked["rule", 1] == asked["other", 1] <= 3 * 3 * 2
    assert 0 < asked["rule", 2048] <= 3 * 2 * 2 + 2 * 2 * 2 * 2


def test_a_refused_request_leaves_one_item_unscored_and_everything_else_there(evaluation):
    assert evaluation.scores.loc[("rao", "alpaca_eval", "win_rate"), ["n", "unscored"]].tolist() == [2, 1]
    annotations = evaluation.read("07_model_output/alpaca_eval_annotations.parquet")
    unscored = annotations[annotations["unscored_reason"] != ""]
    assert set(zip(unscored["annotator"], unscored["instruction"], strict=True)) == {("rule", "Name a dog.")}
    assert "not judged: the server refused the request with HTTP status 400: flagged by our" in evaluation.report


def test_mt_bench_is_graded_and_compared_with_sft(evaluation):
    scores = evaluation.scores
    assert scores.loc[("rao", "mt_bench", "score"), ["value", "n", "vs_sft"]].tolist() == [7.0, 2, 0.0]
    assert scores.loc[("rao", "mt_bench", "win_rate_vs_sft"), ["value", "n"]].tolist() == [50.0, 2]


def test_tasks_of_the_harness_and_ours_have_scores_of_policies_and_served_models(evaluation):
    scores = evaluation.scores
    assert scores.loc[("api", "gsm8k", "accuracy"), "value"] == 100.0
    for benchmark, metric in (("gsm8k", "strict-match"), ("lm_eval/gsm8k_cot", "exact_match,strict-match")):
        assert scores.loc[("api", benchmark, metric), ["value", "n"]].tolist() == [100.0, 1]
        assert scores.loc[("rao", benchmark, metric), "vs_sft"] == 0.0
    assert scores.loc[("sft", "arc_easy", "accuracy"), "chance"] == pytest.approx(100 * (1 / 3 + 1 / 4) / 2)


def test_cut_responses_are_counted(evaluation):
    for kind in ("benchmark_answers", "downstream_samples"):
        assert (evaluation.read(f"07_model_output/rao_{kind}.parquet")["finish_reason"] == "length").any()
    scores = evaluation.read("07_model_output/rao_downstream_scores.parquet").set_index(["task", "metric"])
    assert scores.loc[("gsm8k", "accuracy"), "cut"] > 0


def test_the_judges_bias_and_agreement_are_reported(evaluation):
    """The judge prefers whatever comes first."""
    judged = evaluation.read("08_reporting/judge_report.csv").set_index(["method", "metric"])
    assert judged.loc[("rao", "first_preferred"), "value"] > 0.8 and judged.loc[("rao", "consistent"), "value"] == 0
    assert judged.loc[("rao", "mt_bench_consistent"), "value"] == 0
    assert judged.loc[("rao", "agreement"), ["judge", "value"]].tolist() == ["rule and other", 1.0]
    usage = evaluation.read("07_model_output/judge_usage.parquet")
    assert set(usage["identity"]) == {f"rule at {evaluation.url}", f"other at {evaluation.url}"}
    assert set(usage["judge"]) == {"rule", "other"} and set(usage["method"]) == {"sft", "rao", "api"}


def test_outputs_are_written_in_the_form_of_alpaca_evals_package(evaluation):
    for method in ("sft", "rao", "api"):
        path = evaluation.data / f"07_model_output/alpaca_eval_outputs/{method}.json"
        outputs = json.loads(path.read_text())
        assert [row["generator"] for row in outputs] == [method] * 3
        assert [row["instruction"] for row in outputs] == ["Name a prime.", "Name a fox.", "Name a dog."]
        assert all(isinstance(row["output"], str) for row in outputs)


def test_the_report_shows_answers_with_their_judgments(evaluation):
    assert "Tasks of lm-evaluation-harness" in evaluation.report
    assert "lm_eval/gsm8k_cot exact_match,strict-match" in evaluation.report
    assert "7 of 10, says rule" in evaluation.report and "preferred over base with probability" in evaluation.report


def test_settings_of_generation_are_recorded(evaluation):
    settings = json.loads((evaluation.data / "07_model_output/rao_generation_settings.json").read_text())
    assert settings["stop_token_ids"] and "messages" in settings["chat_template"]
    assert settings["benchmarks"]["alpaca_eval"]["max_tokens"] == 8 and "transformers" in settings["versions"]


def test_what_was_answered_and_judged_is_neither_written_nor_asked_for_again(evaluation):
    """The server is gone, and no engine starts."""
    evaluation.run_again()
    assert len(evaluation.engines) == 2


def test_without_a_judge_there_is_a_report_and_nothing_about_one(evaluation):
    evaluation.run_again(names="gsm8k", judge=None, second_judge=None, served_models={})
    assert "Answers side by side" in (evaluation.data / "08_reporting/benchmark_report.html").read_text()
    assert evaluation.read("08_reporting/judge_report.csv").empty


def write_benchmark_files(directory):
    """Write files of benchmarks in their authors' formats; return parameters that name them."""

    def written(name, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows)
        (directory / name).write_text(text)
        return str(directory / name)

    instructions = ["Name a prime.", "Name a fox.", "Name a dog."]
    baseline = [{"instruction": text, "output": "Seven.", "generator": "base"} for text in instructions]
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Shorter."]},
        {"question_id": 111, "category": "math", "turns": ["1 + 1?", "And doubled?"]},
    ]
    references = [{"question_id": 111, "choices": [{"turns": ["2", "4"]}]}]
    templates = {"single-v1": "{question} {answer}", "single-v1-multi-turn": "{question_2} {answer_1} {answer_2}"}
    templates |= {"pair-v2": "Which? {answer_a} {answer_b}", "pair-v2-multi-turn": "Which? {answer_a_2} {answer_b_2}"}
    templates |= {
        name.replace("v1", "math-v1").replace("pair-v2", "pair-math-v1"): f"{{ref_answer_1}} {text}"
        for name, text in templates.items()
    }
    prompts = [{"name": n, "system_prompt": "Judge.", "prompt_template": t} for n, t in templates.items()]
    arc = [
        {
            "instruction": "Choose: Fox?\n\nAnswer1: a Answer2: b Answer3: c\n\nAnswer format: answer1/answer2",
            "answer": "answer2",
        },
        {
            "instruction": "Choose: Dog?\n\nAnswer1: a Answer2: b Answer3: c Answer4: d\n\nAnswer format: answer1",
            "answer": "answer4",
        },
    ]
    gsm8k = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}]
    rows = written("gsm8k.jsonl", gsm8k)
    return {
        "names": "alpaca_eval mt_bench gsm8k arc_easy",
        "max_model_len": 1200,
        "chain_of_thought": {"max_tokens": 16},
        "harness": {
            "tasks": "gsm8k_cot",
            "num_fewshot": 1,
            "datasets": {"gsm8k_cot": {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows}}}},
        },
        "alpaca_eval": {
            "baseline": written("baseline.json", baseline),
            "instruction_difficulty": None,
            "gamed": None,
            "max_tokens": 8,
            "both_orders": True,
        },
        "mt_bench": {
            "questions": written("question.jsonl", questions),
            "reference_answers": written("gpt-4.jsonl", references),
            "judge_prompts": written("judge_prompts.jsonl", prompts),
            "max_tokens": 8,
            "compare_with_sft": True,
        },
        "sources": {
            "gsm8k": {"path": rows},
            "arc_easy": {"path": written("arc.json", arc)},
        },
    }
